"""Chunks: by which rule a planned placement cuts prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.cost_reader import read_costs
from cluster.errors import PlacementError
from cluster.placement import Links, Placement, fit, predict, solve
from cluster.placement.chips import parse_nodes
from mlx_moe.decoding.chunking import ChunkRule

QWEN3 = read_costs("qwen3-30b-a3b", float_bytes=2)
MINI = parse_nodes("1xM4-Pro-64GB")
ROOM = {"context_tokens": 2048, "concurrency": 1}
LEAST_BYTES = int((QWEN3.weights_bytes + QWEN3.temporary_bytes + 2048 * QWEN3.kv_bytes_per_position) / 0.95) + 2
"""The least memory with which one node has that room."""


def planned(model: str, nodes: str, chunks: ChunkRule | None = None) -> tuple[Placement, dict[int, float]]:
    """Return a plan, and the predicted seconds to the first token."""
    costs, macs = read_costs(model, float_bytes=2), parse_nodes(nodes)
    found = fit(costs, macs, Links(), context_tokens=8192, concurrency=1, chunks=chunks)
    prompts = (128, 512, 1000, 2048, 8192)
    return found.placement, predict(found.placement, costs, found.nodes, Links(), prompts=prompts).ttft_s


def test_on_one_mac_a_prompt_is_one_chunk_of_up_to_2048_tokens() -> None:
    placement, ttft_s = planned("qwen3-30b-a3b", "1xM4-Pro-64GB")
    assert [placement.chunks.length(n) for n in (100, 512, 1000, 2048, 8192)] == [128, 512, 1024, 2048, 2048]
    _, with_default = planned("qwen3-30b-a3b", "1xM4-Pro-64GB", ChunkRule())
    assert ttft_s[1000] < 1.05 < 1.5 < with_default[1000]
    assert all(ttft_s[n] < with_default[n] for n in ttft_s)


def test_where_memory_is_short_the_chunks_are_as_long_as_fits_beside_the_kv_cache() -> None:
    seen = set()
    for spare in range(0, 240_000_000, 20_000_000):
        memory_bytes = LEAST_BYTES + spare
        placement = solve(QWEN3, [replace(MINI[0], memory_bytes=memory_bytes)], Links(), **ROOM)
        longer = placement.chunks.longest - 512
        used = QWEN3.weights_bytes + QWEN3.temporary_bytes + longer * QWEN3.position_bytes
        assert used + placement.kv_positions * QWEN3.kv_bytes_per_position <= 0.95 * memory_bytes
        assert placement.kv_positions >= ROOM["context_tokens"]
        seen.add(placement.chunks.longest)
    assert seen == {512, 1024, 2048}


@pytest.mark.parametrize(
    ("model", "nodes", "wanted", "most_s"),
    [
        ("qwen3-235b-a22b", "2xM4-Max-128GB", 2, 3.4),
        ("qwen3-235b-a22b", "3xM4-Pro-64GB", 4, 4.7),
        ("deepseek-v3", "8xM4-Pro-64GB", 8, 6.0),
    ],
)
def test_several_stages_get_the_number_of_chunks_that_is_predicted_to_be_fastest(
    model: str, nodes: str, wanted: int, most_s: float
) -> None:
    placement, ttft_s = planned(model, nodes)
    assert placement.chunks == ChunkRule(wanted=wanted)
    assert ttft_s[1000] < most_s


def test_the_chunks_asked_for_are_kept() -> None:
    for length in (1, 100, 4096):
        placement, _ = planned("qwen3-30b-a3b", "1xM4-Pro-64GB", ChunkRule.fixed(length))
        assert placement.chunks == ChunkRule.fixed(length)


def test_chunks_that_memory_has_no_room_for_are_refused_with_the_numbers() -> None:
    node = replace(MINI[0], memory_bytes=LEAST_BYTES)
    with pytest.raises(PlacementError, match=r"offers 1\d\.\d GB beside chunks of 4096 tokens, its part needs 1"):
        solve(QWEN3, [node], Links(), **ROOM, chunks=ChunkRule.fixed(4096))

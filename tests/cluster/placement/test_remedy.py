"""What is done, and what is said, when a model does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.cost_reader import read_costs
from cluster.errors import PlacementError
from cluster.placement import Links, ModelCosts, NodeCapacity, Wish, fit, placed, remedies, solve, validate
from cluster.placement.chips import parse_nodes
from cluster.placement.remedy import raise_command
from mlx_moe import families
from mlx_moe.known_models import KNOWN_MODELS
from tests.cluster.placement.small import models, node

DEEPSEEK = read_costs("deepseek-v3", float_bytes=2)


def test_deepseek_v3_fits_eight_minis_once_as_few_limits_as_needed_are_raised() -> None:
    nodes = parse_nodes("8xM4-Pro-64GB")
    with pytest.raises(PlacementError, match=r"needs 384\.4 GB for its weights"):
        solve(DEEPSEEK, nodes, Links(), context_tokens=8192, concurrency=1, expert_groups=False)
    found = fit(DEEPSEEK, nodes, Links(), context_tokens=8192, concurrency=1)
    assert len(found.raised) == 3
    assert not any(stage.peers for stage in found.placement.stages)
    assert raise_command(found.raised[0]) == "sudo sysctl iogpu.wired_limit_mb=57344"
    limits = {node.node_id: node.memory_bytes for node in found.nodes}
    assert all(found.placement.node_bytes[n] < 0.95 * limits[n] for n in limits)


def test_a_limit_is_not_raised_for_nothing() -> None:
    found = fit(DEEPSEEK, parse_nodes("1xM3-Ultra-512GB"), Links(), context_tokens=8192, concurrency=1)
    assert found.raised == ()


def test_remedies_say_how_much_is_enough() -> None:
    nodes = [n.raised() for n in parse_nodes("8xM4-Pro-64GB")]
    wish = Wish(DEEPSEEK, nodes, context_tokens=160_000, concurrency=8)
    assert [remedy.text for remedy in remedies(wish, at_bits)] == [
        "a context of 65536 tokens instead of 160000 (--context)",
        "3 users at once instead of 8 (--users)",
        "1 more node like m4-pro-1 (60.1 GB for the model)",
        "1 more Mac with 96 GB of memory and its GPU limit raised",
        "a conversion of the original to 3 bits (299.0 GB on each node's disk; now 4.5 bits with scales, 384.4 GB)",
    ]
    assert not replace(wish, context_tokens=67_072 + 256).holds()
    assert not replace(wish, concurrency=4).holds()


def at_bits(bits: int) -> ModelCosts:
    return read_costs("deepseek-v3", float_bytes=2, bits=bits)


def test_nodes_as_they_are_are_told_to_raise_their_limits() -> None:
    cures = remedies(Wish(DEEPSEEK, parse_nodes("8xM4-Pro-64GB"), 8192, 1), at_bits)
    assert cures[0].text == "a higher GPU limit: sudo sysctl iogpu.wired_limit_mb=57344"


def test_a_mac_is_not_told_to_have_memory_that_it_cannot_have() -> None:
    model, nodes = read_costs("qwen3-30b-a3b", float_bytes=2, bits=16), parse_nodes("M4-Pro-48GB")
    with pytest.raises(PlacementError, match="With the GPU limits raised, which is counted here, it would") as refused:
        fit(model, nodes, Links(), context_tokens=256, concurrency=1)
    assert "more for the GPU" not in str(refused.value)


def test_memory_that_an_owner_keeps_back_is_asked_for() -> None:
    (node,) = parse_nodes("M4-Max-64GB")
    limited = replace(
        node, memory_bytes=8 << 30, withheld_bytes=node.memory_bytes - (8 << 30), raised_memory_bytes=0, name="mini"
    )
    with pytest.raises(PlacementError, match=r"all the memory of mini \(up without --memory\)"):
        fit(read_costs("qwen3-30b-a3b", float_bytes=2), [limited], Links(), context_tokens=256, concurrency=1)


@pytest.mark.parametrize("spec", ["M1-8GB", "3xM1-8GB", "M4-Pro-24GB,M1-8GB", "12xM1-8GB"])
def test_nodes_that_cannot_hold_the_largest_part_hear_what_would_fit(spec: str) -> None:
    with pytest.raises(PlacementError, match="would fit with 1 more Mac with 512 GB"):
        fit(DEEPSEEK, parse_nodes(spec), Links(), context_tokens=8192, concurrency=1)


def test_numbers_are_said_in_units_that_do_not_round_to_nothing() -> None:
    with pytest.raises(PlacementError, match=r"demo needs [\d.]+ MB .* MB too little"):
        fit(read_costs("demo", float_bytes=4), [node(0, 1_000_000)], Links(), context_tokens=256, concurrency=1)


KNOWN = [read_costs(name, float_bytes=2) for name in ("deepseek-v3", "qwen3-30b-a3b", "demo")]
CONFIGS = {model.name: families.read_config(KNOWN_MODELS[model.name].config) for model in KNOWN[:2]}
gigabytes = st.floats(0.1, 512).map(lambda count: int(count * 1e9))


@st.composite
def machines(draw: st.DrawFn) -> list[NodeCapacity]:
    """Return one to twelve nodes, Macs or not, some alike, some of which keep memory back."""
    sizes = draw(st.lists(gigabytes, min_size=1, max_size=4))
    nodes = []
    for index in range(draw(st.integers(1, 12))):
        memory_bytes, is_mac, keeps = draw(st.sampled_from(sizes)), draw(st.booleans()), draw(st.booleans())
        some = node(index, memory_bytes, draw(st.sampled_from([100.0, 400.0])))
        if keeps:
            some = replace(some, memory_bytes=memory_bytes // 3, withheld_bytes=memory_bytes - memory_bytes // 3)
        elif is_mac:
            some = replace(some, raised_memory_bytes=memory_bytes * 9 // 8, is_mac=True)
        nodes.append(some)
    return nodes


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    model=st.sampled_from(KNOWN) | models(6),
    nodes=machines(),
    context_tokens=st.integers(1, 1000),
    concurrency=st.integers(1, 40),
)
def test_any_plan_is_sound_or_says_what_would_be(
    model: ModelCosts, nodes: list[NodeCapacity], context_tokens: int, concurrency: int
) -> None:
    """No other error than PlacementError; and each cure, taken, makes it fit."""
    wish = Wish(model, nodes, context_tokens, concurrency)
    try:
        found = fit(model, nodes, Links(), context_tokens=context_tokens, concurrency=concurrency)
    except PlacementError:
        higher = replace(wish, nodes=[some.raised() for some in nodes])
        for remedy in remedies(higher, lambda bits: model.at_bits(bits + 0.5)):
            cured = remedy.wish
            fit(cured.model, cured.nodes, Links(), context_tokens=cured.context_tokens, concurrency=cured.concurrency)
        return
    stages = found.placement.stages
    assert [layer for stage in stages for layer in stage.layers] == list(range(len(model.layers)))
    assert len(set(found.placement.node_ids)) == len(found.placement.node_ids)
    rule = found.placement.chunks
    again = placed(model, found.nodes, stages, context_tokens=context_tokens, concurrency=concurrency, chunks=rule)
    assert again == found.placement
    if model.name in CONFIGS:
        validate(found.placement, CONFIGS[model.name])

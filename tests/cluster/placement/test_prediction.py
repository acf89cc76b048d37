"""Prediction: the published figures of the speed model, and how time grows."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from cluster.cost_reader import read_costs
from cluster.errors import PlacementError
from cluster.placement import Latency, Link, Links, NodeCapacity, predict, solve, spread
from cluster.placement.chips import parse_nodes
from cluster.placement.prediction import longest_delay_s
from cluster.placement.timing import Owner, decode_s
from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.errors import InvalidRequestError
from tests.cluster.placement.small import layer, model, node

DEEPSEEK = read_costs("deepseek-v3", float_bytes=2)
MINIS = [n.raised() for n in parse_nodes("8xM4-Pro-64GB")]


def test_deepseek_v3_on_eight_minis_is_as_fast_as_the_speed_model_says() -> None:
    placement = solve(DEEPSEEK, MINIS, Links(), context_tokens=512, concurrency=1)
    prediction = predict(placement, DEEPSEEK, MINIS, Links(), prompts=(1024,))
    assert prediction.tokens_per_s == pytest.approx(9.6, rel=0.02)
    assert prediction.together_tokens_per_s(4) == pytest.approx(38, rel=0.02)
    assert prediction.together_tokens_per_s(8) == pytest.approx(77, rel=0.05)
    assert len(prediction.hop_s) == 8
    times = [prediction.together_tokens_per_s(users) / prediction.tokens_per_s for users in (8, 16, 32)]
    assert times == pytest.approx([8.0, 10.9, 13.2], rel=0.01)  # batches of 1, 2 and 4 in each stage


def test_one_node_has_no_hops() -> None:
    costs = read_costs("qwen3-30b-a3b", float_bytes=2)
    placement = solve(costs, MINIS[:1], Links(), context_tokens=512, concurrency=1)
    prediction = predict(placement, costs, MINIS, Links())
    assert prediction.hop_s == ()
    assert prediction.token_s == prediction.stage_s[0] + prediction.head_s


def test_chunks_let_stages_work_at_once() -> None:
    placement = spread(DEEPSEEK, MINIS, layer_splits=[5, *[8] * 7], context_tokens=8192, concurrency=1)
    at_once = replace(placement, chunks=ChunkRule.fixed(8192))
    whole = predict(at_once, DEEPSEEK, MINIS, Links(), prompts=(8192,)).ttft_s[8192]
    chunked = predict(placement, DEEPSEEK, MINIS, Links(), prompts=(8192,)).ttft_s[8192]
    assert chunked < whole / 3
    assert whole == pytest.approx(135, rel=0.15)


def test_one_chunk_takes_the_sum_of_all_stages_and_hops() -> None:
    costs = model([layer(1_000_000, 0, 1000)] * 3)
    nodes = [node(i, 100_000_000) for i in range(3)]
    links = Links(measured={("n2", "n0"): Link(1.0)})
    placement = spread(costs, nodes, layer_splits=[1, 1, 1], context_tokens=100, concurrency=1)
    ttft, one_by_one = (
        predict(replace(placement, chunks=ChunkRule.fixed(n)), costs, nodes, links, prompts=(2,)).ttft_s[2]
        for n in (2, 1)
    )
    assert 1.0 < ttft < 1.1
    assert ttft < one_by_one < 1.1  # the second chunk's way back begins while the first is still on its own


def test_the_busiest_of_equal_owners_is_as_busy_as_simulated() -> None:
    costs = replace(model([layer(0, 1_000_000_000, 0)], n_experts=256), experts_per_token=8, hidden_size=0)
    free = Link(latency_s=0.0)
    rng = random.Random(0)
    for n_owners, published in ((2, 5.07), (4, 3.49), (8, 2.54)):
        owners = [Owner(node(i, 0), 256 // n_owners, None if i == 0 else free) for i in range(n_owners)]
        seconds = decode_s(costs, costs.layers[0], owners, 0) - 100e-6
        draws = [[e % n_owners for e in rng.sample(range(256), 8)] for _ in range(4000)]
        mean = sum(max(map(draw.count, draw)) for draw in draws) / len(draws)
        assert seconds == pytest.approx(mean, rel=0.02)
        assert seconds == pytest.approx(published, rel=0.02)


def test_a_batch_reads_each_expert_that_it_chooses_once() -> None:
    costs = model([layer(1_000_000, 1_000_000, 0)])
    owner = Owner(node(0, 100_000_000), costs.n_experts)
    alone, *batches = (decode_s(costs, costs.layers[0], [owner], 100, n) for n in (1, 2, 8, 1000))
    n_read = [8 * (1 - (6 / 8) ** n) for n in (2, 8, 1000)]  # of eight experts, if each sequence chooses two
    one_s = costs.layers[0].expert_bytes / (owner.node.bandwidth_gbps * 1e9)
    assert [seconds - alone for seconds in batches] == pytest.approx([(n - 2) * one_s for n in n_read])


def test_more_users_never_write_less_together() -> None:
    placement = solve(DEEPSEEK, MINIS, Links(), context_tokens=512, concurrency=1, objective="many_users")
    prediction = predict(placement, DEEPSEEK, MINIS, Links())
    rates = [prediction.together_tokens_per_s(users) for users in range(1, 200)]
    assert rates == sorted(rates)
    assert rates[-1] == prediction.most_tokens_per_s


@pytest.mark.parametrize("nodes", [MINIS, parse_nodes("1xM3-Ultra-512GB")])
def test_a_latency_shortens_chunks_as_far_as_it_must_and_no_further(nodes: list[NodeCapacity]) -> None:
    def chunks(latency_s: float) -> int:
        asked = Latency(latency_s)
        return solve(DEEPSEEK, nodes, Links(), context_tokens=8192, concurrency=1, chunks=asked).chunks.longest

    free = solve(DEEPSEEK, nodes, Links(), context_tokens=8192, concurrency=1)
    lengths = [length for length in (2048, 1024, 512, 256, 128, 64, 32) if length <= free.chunks.longest]
    for length in lengths:
        delay_s = longest_delay_s(free, DEEPSEEK, nodes, Links(), length)
        assert chunks(delay_s * 1.001) == length
        if length > 32:
            assert chunks(delay_s * 0.999) == length // 2
    with pytest.raises(PlacementError, match=r"the smallest possible is --latency 0\.\d+") as raised:
        chunks(delay_s * 0.9)
    chunks(float(str(raised.value).rpartition(" ")[2]))  # the cure is one


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 3601.0])
def test_a_latency_must_be_some_seconds(seconds: float) -> None:
    with pytest.raises(InvalidRequestError, match="--latency must be more than 0 and at most 3600 seconds"):
        Latency(seconds)

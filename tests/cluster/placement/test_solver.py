"""The solver: what it gives is whole and fits, and nothing is better."""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections import Counter
from dataclasses import replace
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cost_reader import read_costs
from cluster.errors import PlacementError
from cluster.placement import Link, Links, ModelCosts, NodeCapacity, Objective, Placement, loads, predict, solve
from cluster.placement.accounting import budget
from cluster.placement.chips import parse_nodes
from cluster.placement.stages import spread
from mlx_moe.errors import InvalidRequestError
from tests.cluster.placement.small import (
    CONCURRENCY,
    CONTEXT_TOKENS,
    POSITIONS,
    all_placements,
    clusters,
    layer,
    model,
    models,
    node,
)

Cluster = tuple[list[NodeCapacity], Links]

NANOSECONDS = 1e-6
"""Relative: the search counts whole nanoseconds, the prediction does not."""


def solved(
    costs: ModelCosts, cluster: Cluster, objective: Objective = "one_user", groups: bool | None = None
) -> Placement | None:
    nodes, links = cluster
    try:
        return solve(
            costs,
            nodes,
            links,
            context_tokens=CONTEXT_TOKENS,
            concurrency=CONCURRENCY,
            objective=objective,
            expert_groups=groups,
        )
    except PlacementError:
        return None


def seconds(placement: Placement, costs: ModelCosts, cluster: Cluster, objective: Objective) -> float:
    prediction = predict(placement, costs, *cluster)
    first_s, *others_s = prediction.stage_s
    return prediction.token_s if objective == "one_user" else max(first_s + prediction.head_s, *others_s, 0.0)


def assert_best(costs: ModelCosts, cluster: Cluster, objective: Objective, *, groups: bool) -> None:
    found = solved(costs, cluster, objective, groups)
    every = [
        seconds(placement, costs, cluster, objective) for placement in all_placements(costs, cluster[0], groups=groups)
    ]
    assert (found is None) == (not every)
    if found is not None:
        assert seconds(found, costs, cluster, objective) == pytest.approx(min(every), rel=NANOSECONDS)


@settings(max_examples=150)
@given(models(5), clusters(4), st.sampled_from(["one_user", "many_users"]))
def test_no_placement_of_whole_layers_is_better(costs: ModelCosts, cluster: Cluster, objective: Objective) -> None:
    assert_best(costs, cluster, objective, groups=False)


@settings(max_examples=250)
@given(models(4), clusters(3), st.sampled_from(["one_user", "many_users"]))
def test_no_placement_with_expert_groups_is_better(costs: ModelCosts, cluster: Cluster, objective: Objective) -> None:
    assert_best(costs, cluster, objective, groups=True)


@settings(max_examples=80)
@given(models(12), clusters(5), st.sampled_from(["one_user", "many_users"]), st.sampled_from([None, True, False]))
def test_a_placement_is_whole_and_fits(
    costs: ModelCosts, cluster: Cluster, objective: Objective, groups: bool | None
) -> None:
    placement = solved(costs, cluster, objective, groups)
    if placement is None:
        return
    assert [i for stage in placement.stages for i in stage.layers] == list(range(len(costs.layers)))
    for stage in placement.stages:
        for i in stage.layers:
            owned = stage.owners(i, costs.n_experts).values()
            assert Counter(e for experts in owned for e in experts) == Counter(range(costs.n_experts))
    roles = [stage.node_id for stage in placement.stages]
    roles += [peer.node_id for stage in placement.stages for peer in stage.peers]
    assert len(roles) == len(set(roles))
    for capacity in cluster[0]:
        if held := loads(costs, placement.stages).get(capacity.node_id):
            assert held.weights_bytes + POSITIONS * held.kv_bytes <= budget(costs, capacity)
            assert held.weights_bytes + placement.kv_positions * held.kv_bytes <= budget(costs, capacity)
    assert placement.kv_positions >= POSITIONS


def test_nodes_that_would_only_add_hops_are_left_out() -> None:
    placement = solve(
        read_costs("qwen3-30b-a3b", float_bytes=2),
        parse_nodes("4xM4-Pro-64GB"),
        Links(),
        context_tokens=8192,
        concurrency=1,
    )
    assert len(placement.stages) == 1


def test_where_one_user_sees_no_difference_stages_are_even() -> None:
    costs = model([layer(20_000_000, 0, 1000)] * 9)
    placement = solved(costs, ([node(i, 150_000_000) for i in range(3)], Links()))
    assert placement is not None
    assert [len(stage.layers) for stage in placement.stages] == [4, 5]


def test_slow_links_are_avoided_and_the_ring_is_closed() -> None:
    costs = model([layer(30_000_000, 0, 1000)] * 6)
    nodes = [node(i, 100_000_000) for i in range(3)]
    fast = {("n0", "n2"), ("n2", "n1"), ("n1", "n0")}
    pairs = [(a.node_id, b.node_id) for a in nodes for b in nodes if a != b]
    links = Links(measured={pair: Link(1e-3 if pair in fast else 5e-3) for pair in pairs})
    placement = solved(costs, (nodes, links))
    assert placement is not None
    ids = [stage.node_id for stage in placement.stages]
    assert set(zip(ids, [*ids[1:], ids[0]], strict=True)) == fast


def test_a_layer_that_fits_no_node_is_split_by_experts() -> None:
    costs = model([layer(5_000_000, 20_000_000, 1000)])
    placement = solved(costs, ([node(i, 80_000_000) for i in range(3)], Links()))
    assert placement is not None
    (stage,) = placement.stages
    counts = [len(experts) for experts in stage.owners(0, costs.n_experts).values()]
    assert sum(counts) == costs.n_experts
    assert counts[0] == min(counts)  # the leader holds the coordinator's part too
    assert solved(costs, ([node(i, 80_000_000) for i in range(3)], Links()), groups=False) is None


def test_a_peer_that_makes_a_layer_faster_is_used_unasked() -> None:
    costs = model([layer(1_000_000, 20_000_000, 1000)] * 2)
    nodes = [node(0, 600_000_000), node(1, 600_000_000)]
    links = Links(default=Link(latency_s=1e-5, bytes_per_s=1e10))
    placement = solved(costs, (nodes, links))
    assert placement is not None
    assert [len(stage.peers) for stage in placement.stages] == [1]
    slow = solved(costs, (nodes, Links(default=Link(latency_s=1.0))))
    assert slow is not None
    assert not any(stage.peers for stage in slow.stages)


def test_too_many_kinds_of_nodes_are_refused() -> None:
    nodes = [node(i, 200_000_000 + i) for i in range(13)]
    with pytest.raises(InvalidRequestError, match="13 nodes in 13 kinds"):
        solve(model([layer(1, 0, 1)]), nodes, Links(), context_tokens=1, concurrency=1)


def test_links_that_differ_by_noise_do_not_make_kinds_of_nodes() -> None:
    nodes = [node(i, 100_000_000) for i in range(16)]
    noise = random.Random(1)
    slow = {"n0", "n1", "n2", "n3", "n4"}  # behind a slower wire
    measured = {
        (a.node_id, b.node_id): Link(
            (30e-3 if (a.node_id in slow) != (b.node_id in slow) else 1e-3) * noise.uniform(0.8, 1.2),
            1e9 * noise.uniform(0.8, 1.0),
        )
        for a, b in itertools.permutations(nodes, 2)
    }
    placement = solved(model([layer(30_000_000, 0, 1000)] * 20), (nodes, Links(measured=measured)))
    assert placement is not None
    used = {stage.node_id for stage in placement.stages}
    assert len(used) > len(slow)
    assert not used & slow
    assert solved(model([layer(30_000_000, 0, 1000)] * 36), (nodes, Links(measured=measured))) is not None


def test_links_in_steps_are_never_faster_and_keep_their_order() -> None:
    links = Links(Link(1e-3, math.inf), {("a", "b"): Link(1.1e-3, 1e9), ("b", "a"): Link(3e-3, 0.9e9)})
    assert links.in_steps(1.0) == links
    assert links.in_steps(1.5) == Links(
        Link(1.1e-3, math.inf), {("a", "b"): Link(1.1e-3, 0.9e9), ("b", "a"): Link(3e-3, 0.9e9)}
    )
    assert set(links.in_steps(math.inf).measured.values()) == {Link(3e-3, 0.9e9)}


@pytest.mark.parametrize(("context_tokens", "concurrency"), [(0, 1), (1001, 1), (1, 0)])
def test_a_context_that_the_model_lacks_is_refused(context_tokens: int, concurrency: int) -> None:
    with pytest.raises(InvalidRequestError, match=r"at most 1,000|at least 1"):
        solve(
            model([layer(1, 0, 1)]),
            [node(0, 200_000_000)],
            Links(),
            context_tokens=context_tokens,
            concurrency=concurrency,
        )


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3-235b-a22b"])
@pytest.mark.parametrize("alike", [True, False])
def test_a_large_model_on_eight_nodes_is_placed_at_once(name: str, alike: bool) -> None:
    costs = read_costs(name, float_bytes=2)
    nodes = [n.raised() for n in parse_nodes("8xM4-Pro-64GB")]
    if not alike:
        nodes = [replace(n, bandwidth_gbps=n.bandwidth_gbps + i, name="") for i, n in enumerate(nodes)]
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        placement = solve(costs, nodes, Links(), context_tokens=8192, concurrency=1)
    finally:
        sys.setprofile(before)
    assert calls < 500_000  # 70,000; exponential growth would be millions
    assert sum(len(stage.layers) for stage in placement.stages) == len(costs.layers)


def test_a_given_shape_is_filled_in_order() -> None:
    costs = model([layer(5_000_000, 1_000_000, 1000)] * 4)
    nodes = [node(i, 100_000_000) for i in range(4)]
    placement = spread(costs, nodes, layer_splits=[3, 1], expert_peers=[1], context_tokens=10, concurrency=1)
    first, second = placement.stages
    assert (first.node_id, first.layers, [p.node_id for p in first.peers]) == ("n0", range(3), ["n1"])
    assert (second.node_id, second.layers, second.peers) == ("n2", range(3, 4), ())
    with pytest.raises(InvalidRequestError, match=r"stages of \[2, 1\] layers"):
        spread(costs, nodes, layer_splits=[2, 1], context_tokens=10, concurrency=1)
    with pytest.raises(InvalidRequestError, match="do not go on 4 nodes"):
        spread(costs, nodes, layer_splits=[2, 2], expert_peers=[2, 1], context_tokens=10, concurrency=1)
    with pytest.raises(PlacementError, match="node mac-0 offers"):
        spread(costs, [node(0, 30_000_000)], layer_splits=[4], context_tokens=10, concurrency=1)

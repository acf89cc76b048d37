"""Rebalance: the best placement with the coordinator where it is; equal nodes keep what they hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import PlacementError
from cluster.placement import (
    Links,
    ModelCosts,
    NodeCapacity,
    Placement,
    Rebalance,
    loads,
    predict,
    rebalance,
    repair,
    solve,
    spread,
)
from cluster.placement.accounting import budget
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

COSTS = model([layer(20_000_000, 0, 1000)] * 6)
LINKS = Links()


def rebalanced(
    former: Placement, nodes: list[NodeCapacity], costs: ModelCosts = COSTS, links: Links = LINKS
) -> Rebalance:
    return rebalance(former, costs, nodes, links, context_tokens=POSITIONS, concurrency=1)


def for_one_user(placements: Iterable[Placement]) -> list[Placement]:
    return [replace(p, context_tokens=POSITIONS, concurrency=1) for p in placements]


def layers_of(placement: Placement) -> list[tuple[str, int, int]]:
    return [(stage.node_id, stage.layers.start, stage.layers.stop) for stage in placement.stages]


def spread_over(nodes: list[NodeCapacity], layers: list[int], context_tokens: int = CONTEXT_TOKENS) -> Placement:
    return spread(COSTS, nodes, layer_splits=layers, context_tokens=context_tokens, concurrency=CONCURRENCY)


def test_a_faster_node_that_joins_takes_the_part_of_a_slow_one() -> None:
    nodes = [node(0, 90_000_000), node(1, 90_000_000), node(2, 90_000_000, bandwidth_gbps=10.0)]
    former = spread_over(nodes[:2], [3, 3])
    found = rebalanced(former, nodes)
    assert layers_of(found.placement) == [("n0", 0, 2), ("n2", 2, 6)]
    assert found.is_better
    assert found.read_bytes == {"n2": 80_000_000}
    assert found.tokens_per_s > 1.2 * found.former_tokens_per_s


def test_what_is_best_already_does_not_change() -> None:
    nodes = [node(i, 150_000_000) for i in range(3)]
    former = solve(COSTS, nodes, Links(), context_tokens=POSITIONS, concurrency=1)
    found = rebalanced(former, nodes)
    assert not found.changes
    assert not found.is_better
    assert found.read_bytes == {}


def test_equal_nodes_keep_their_parts_in_whatever_order_they_are_listed() -> None:
    nodes = [node(i, 60_000_000) for i in range(4)]
    former = spread_over([nodes[2], nodes[0], nodes[3]], [2, 2, 2])
    found = rebalanced(former, nodes)
    assert layers_of(found.placement) == layers_of(former)


def test_room_that_a_loss_had_taken_is_worth_its_bytes_at_any_speed() -> None:
    nodes = [node(i, 90_000_000) for i in range(3)]
    former = spread_over(nodes[:2], [3, 3], context_tokens=50)
    found = rebalanced(former, nodes)
    assert found.has_more_room
    assert found.is_better


def test_a_placement_with_a_lost_node_is_left_to_the_repair() -> None:
    nodes = [node(i, 150_000_000) for i in range(3)]
    with pytest.raises(PlacementError, match="wait for the repair"):
        rebalanced(spread_over(nodes[:2], [3, 3]), [nodes[0], nodes[2]])


@settings(max_examples=150)
@given(models(5), clusters(4), st.data())
def test_no_placement_with_this_coordinator_is_faster(
    costs: ModelCosts, cluster: tuple[list[NodeCapacity], Links], data: st.DataObject
) -> None:
    nodes, links = cluster
    every = for_one_user(all_placements(costs, nodes, groups=False))
    if not every:
        return
    former = data.draw(st.sampled_from(every))
    found = rebalanced(former, nodes, costs, links)
    assert found.placement.coordinator == former.coordinator
    best = max(predict(p, costs, nodes, links).tokens_per_s for p in every if p.coordinator == former.coordinator)
    assert found.tokens_per_s >= best * (1 - 1e-6)  # expert groups may be faster still
    assert found.tokens_per_s >= found.former_tokens_per_s * (1 - 1e-6)
    for capacity in nodes:
        if held := loads(costs, found.placement.stages).get(capacity.node_id):
            assert held.weights_bytes + POSITIONS * held.kv_bytes <= budget(costs, capacity)
    assert set(found.read_bytes) <= set(found.placement.node_ids)


@settings(max_examples=80)
@given(models(5), clusters(4), st.data())
def test_a_node_that_was_lost_and_is_back_gives_back_what_the_loss_took(
    costs: ModelCosts, cluster: tuple[list[NodeCapacity], Links], data: st.DataObject
) -> None:
    nodes, links = cluster
    every = [p for p in for_one_user(all_placements(costs, nodes, groups=False)) if len(p.stages) > 1]
    if not every:
        return
    former = data.draw(st.sampled_from(every))
    lost = data.draw(st.sampled_from(former.node_ids[1:]))
    try:
        between = repair(
            former, costs, [n for n in nodes if n.node_id != lost], links, context_tokens=10, concurrency=1
        )
    except PlacementError:
        return
    found = rebalanced(between, nodes, costs, links)
    assert found.is_better
    assert found.tokens_per_s >= predict(former, costs, nodes, links).tokens_per_s * (1 - 1e-6)

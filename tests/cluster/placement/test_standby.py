"""Standby: the largest stage has a spare copy where there is room to run it, and a repair then reads nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cost_reader import read_costs
from cluster.placement import (
    Links,
    ModelCosts,
    NodeCapacity,
    Placement,
    Standby,
    loads,
    rebalance,
    repair,
    spread,
    validate,
    with_standby,
)
from cluster.placement.accounting import Load, budget
from cluster.placement.rebalance import read_bytes
from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
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

COSTS = model([layer(20_000_000, 0, 1000)] * 9)
LARGE = 500_000_000


def spread_over(nodes: list[NodeCapacity], layers: list[int], peers: tuple[int, ...] = ()) -> Placement:
    return spread(
        COSTS,
        nodes,
        layer_splits=layers,
        expert_peers=peers,
        context_tokens=CONTEXT_TOKENS,
        concurrency=CONCURRENCY,
    )


def repaired(former: Placement, nodes: list[NodeCapacity], costs: ModelCosts = COSTS) -> Placement:
    return repair(former, costs, nodes, Links(), context_tokens=CONTEXT_TOKENS, concurrency=CONCURRENCY)


def layers_of(placement: Placement) -> list[tuple[str, int, int]]:
    return [(stage.node_id, stage.layers.start, stage.layers.stop) for stage in placement.stages]


def test_a_node_without_a_part_gets_the_copy_of_the_largest_later_stage() -> None:
    nodes = [node(i, LARGE) for i in range(4)]
    spared = with_standby(spread_over(nodes[:3], [3, 2, 4]), COSTS, nodes)
    assert spared.standby == Standby("n3", range(5, 9))
    assert spared.node_ids == ["n0", "n1", "n2", "n3"]
    assert spared.node_bytes["n3"] == 80_000_000
    placement = repaired(spared, [nodes[0], nodes[1], nodes[3]])
    assert layers_of(placement) == [("n0", 0, 3), ("n1", 3, 5), ("n3", 5, 9)]
    assert placement.standby is None
    assert read_bytes(COSTS, spared, placement) == {}


def test_a_neighbour_gets_it_where_no_node_is_free_and_takes_the_layers_over() -> None:
    nodes = [node(0, 90_000_000), node(1, LARGE), node(2, LARGE)]
    spared = with_standby(spread_over(nodes, [3, 2, 4]), COSTS, nodes)
    assert spared.standby == Standby("n1", range(5, 9))
    placement = repaired(spared, nodes[:2])
    assert layers_of(placement) == [("n0", 0, 3), ("n1", 3, 9)]
    assert read_bytes(COSTS, spared, placement) == {}


def test_the_copy_stays_where_another_node_is_lost_and_is_no_hindrance_where_its_own_is() -> None:
    nodes = [node(i, LARGE) for i in range(5)]
    spared = with_standby(spread_over(nodes[:4], [2, 2, 4, 1]), COSTS, nodes)
    assert spared.standby == Standby("n4", range(4, 8))
    assert repaired(spared, [nodes[0], nodes[2], nodes[3], nodes[4]]).standby == spared.standby
    without = repaired(spared, nodes[:4])
    assert (without.standby, without.stages) == (None, spared.stages)


def test_where_nothing_is_free_there_is_none() -> None:
    tight = [node(i, 75_000_000) for i in range(3)]
    placement = spread_over(tight, [3, 3, 3])
    assert with_standby(placement, COSTS, tight) == placement
    experts = model([layer(5_000_000, 1_000_000, 1000)] * 4)
    nodes = [node(i, LARGE) for i in range(4)]
    groups = spread(experts, nodes, layer_splits=[2, 2], expert_peers=(1, 1), context_tokens=100, concurrency=1)
    assert with_standby(groups, experts, nodes) == groups  # its other experts' nodes take over what a peer had


def test_a_copy_that_a_loss_has_used_up_is_made_again_at_a_quiet_moment() -> None:
    nodes = [*(node(i, 80_000_000) for i in range(3)), node(3, LARGE, bandwidth_gbps=0.1)]
    former = spread_over(nodes[:3], [3, 3, 3])
    for wanted in (True, False):
        found = rebalance(
            former,
            COSTS,
            nodes,
            Links(),
            context_tokens=CONTEXT_TOKENS,
            concurrency=CONCURRENCY,
            standby=wanted,
        )
        assert layers_of(found.placement) == layers_of(former)
        assert (found.has_new_standby, found.is_better, found.changes) == (wanted, wanted, wanted)
    assert found.read_bytes == {}


@settings(max_examples=150)
@given(models(6), clusters(4), st.data())
def test_it_fits_and_saves_all_reading_of_its_stage(
    costs: ModelCosts, cluster: tuple[list[NodeCapacity], Links], data: st.DataObject
) -> None:
    nodes, links = cluster
    every = [p for p in all_placements(costs, nodes, groups=False) if len(p.stages) > 1]
    if not every:
        return
    former = data.draw(st.sampled_from(every))
    spared = with_standby(former, costs, nodes)
    if (standby := spared.standby) is None:
        return
    held = loads(costs, spared.stages)
    (lost,) = (stage.node_id for stage in spared.stages if stage.layers == standby.layers)
    holder = next(n for n in nodes if n.node_id == standby.node_id)
    own = held.get(holder.node_id, Load(0, 0))
    weights = own.weights_bytes + held[lost].weights_bytes
    assert weights + POSITIONS * (own.kv_bytes + held[lost].kv_bytes) <= budget(costs, holder)
    assert weights + spared.kv_positions * own.kv_bytes <= budget(costs, holder)
    assert spared.kv_positions >= POSITIONS
    assert Placement.from_json(spared.to_json()) == spared
    left = [n for n in nodes if n.node_id != lost]
    placement = repair(spared, costs, left, links, context_tokens=CONTEXT_TOKENS, concurrency=CONCURRENCY)
    assert read_bytes(costs, spared, placement) == {}


def test_a_plan_by_hand_spares_only_what_can_be_spared() -> None:
    nodes = [node(i, LARGE) for i in range(3)]
    costs = read_costs("demo", float_bytes=2)
    placement = spread(costs, nodes, layer_splits=[2, 2, 2], context_tokens=100, concurrency=1)
    with Checkpoint.open(library.locate("demo")) as checkpoint:
        config = families.config_of(checkpoint)
    validate(replace(placement, standby=Standby("n9", range(2, 4))), config)
    for wrong in (Standby("n2", range(0, 2)), Standby("n1", range(2, 4)), Standby("n2", range(2, 5))):
        with pytest.raises(InvalidRequestError, match="standby has layers"):
            validate(replace(placement, standby=wrong), config)

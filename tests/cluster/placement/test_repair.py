"""Repair: after a loss the model stays where it is; only what is lost is read, by nodes that have room for it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import PlacementError
from cluster.placement import Links, ModelCosts, NodeCapacity, Placement, StagePlacement, loads, repair, spread
from cluster.placement.accounting import budget
from tests.cluster.placement.small import CONCURRENCY, CONTEXT_TOKENS, POSITIONS, layer, model, models, node

LARGE = 500_000_000


def spread_over(costs: ModelCosts, nodes: list[NodeCapacity], layers: list[int], peers: tuple[int, ...]) -> Placement:
    return spread(
        costs, nodes, layer_splits=layers, expert_peers=peers, context_tokens=CONTEXT_TOKENS, concurrency=CONCURRENCY
    )


def repaired(former: Placement, costs: ModelCosts, nodes: list[NodeCapacity], lost: Sequence[str] = ()) -> Placement:
    """Return the repaired placement; `lost` are links, by the ids at their ends: "n1 n2"."""
    ends = [tuple(link.split()) for link in lost]
    links = Links(lost=frozenset((a, b) for one, other in ends for a, b in ((one, other), (other, one))))
    return repair(former, costs, nodes, links, context_tokens=CONTEXT_TOKENS, concurrency=CONCURRENCY)


def layers_of(placement: Placement) -> list[tuple[str, int, int]]:
    return [(stage.node_id, stage.layers.start, stage.layers.stop) for stage in placement.stages]


COSTS = model([layer(5_000_000, 1_000_000, 1000)] * 9)
NODES = [node(i, LARGE) for i in range(4)]
THREE = spread_over(COSTS, NODES, [3, 3, 3], ())


def test_lost_layers_go_to_the_stages_beside_them_and_nothing_else_moves() -> None:
    assert layers_of(repaired(THREE, COSTS, [NODES[0], NODES[2]])) == [("n0", 0, 4), ("n2", 4, 9)]
    assert layers_of(repaired(THREE, COSTS, NODES[:2])) == [("n0", 0, 3), ("n1", 3, 9)]
    assert layers_of(repaired(THREE, COSTS, NODES[:1])) == [("n0", 0, 9)]


def test_nothing_lost_changes_nothing() -> None:
    assert layers_of(repaired(THREE, COSTS, NODES[:3])) == layers_of(THREE)


def test_of_two_nodes_whose_link_is_lost_one_gets_no_part() -> None:
    left_out = ([("n0", 0, 3), ("n1", 3, 9)], [("n0", 0, 4), ("n2", 4, 9)])
    assert layers_of(repaired(THREE, COSTS, NODES[:3], ["n1 n2"])) in left_out
    assert layers_of(repaired(THREE, COSTS, NODES[:3], ["n2 n0"])) == left_out[0]
    assert layers_of(repaired(THREE, COSTS, NODES[:3], ["n1 n2", "n0 n1"])) == left_out[1]
    alone = repaired(THREE, COSTS, NODES[:3], ["n0 n1", "n0 n2"])
    assert layers_of(alone) == [("n0", 0, 9)]


def test_a_lost_link_is_used_if_the_model_does_not_fit_without_it() -> None:
    tight = [node(i, 60_000_000) for i in range(3)]
    assert layers_of(repaired(THREE, COSTS, tight, ["n1 n2"])) == layers_of(THREE)


def test_an_expert_peer_that_its_leader_does_not_reach_gets_no_part() -> None:
    grouped = spread_over(COSTS, NODES, [4, 5], (0, 1))
    leader, peer = grouped.stages[1].node_id, grouped.stages[1].peers[0].node_id
    placement = repaired(grouped, COSTS, NODES[:3], [f"{leader} {peer}"])
    assert len(set(placement.node_ids) & {leader, peer}) == 1


def test_a_spare_node_takes_the_place_of_a_lost_one_where_that_is_faster_or_the_others_have_no_room() -> None:
    small = [node(i, 70_000_000) for i in range(4)]
    placement = repaired(THREE, COSTS, [small[0], small[2], small[3]])
    assert layers_of(placement) == [("n0", 0, 3), ("n3", 3, 6), ("n2", 6, 9)]


def test_borders_move_where_a_neighbour_has_no_room() -> None:
    four = spread_over(COSTS, NODES, [3, 2, 2, 2], ())
    tight = node(1, 40_000_000)  # room for two layers
    placement = repaired(four, COSTS, [NODES[0], tight, NODES[3]])
    assert layers_of(placement) == [("n0", 0, 3), ("n1", 3, 5), ("n3", 5, 9)]
    tight = node(3, 40_000_000)
    placement = repaired(four, COSTS, [NODES[0], node(1, 40_000_000), tight])
    assert layers_of(placement) == [("n0", 0, 5), ("n1", 5, 7), ("n3", 7, 9)]


def test_the_experts_of_a_lost_peer_go_to_the_others_of_its_stage() -> None:
    groups = spread_over(COSTS, NODES, [4, 5], (1, 1))
    placement = repaired(groups, COSTS, [NODES[0], NODES[2], NODES[3]])
    assert [(stage.node_id, [p.node_id for p in stage.peers]) for stage in placement.stages] == [
        ("n0", []),
        ("n2", ["n3"]),
    ]
    placement = repaired(groups, COSTS, [NODES[0], NODES[1], NODES[3]])  # the peer becomes the leader
    assert [(stage.node_id, [p.node_id for p in stage.peers]) for stage in placement.stages] == [
        ("n0", ["n1"]),
        ("n3", []),
    ]


def test_the_first_stage_that_is_left_coordinates() -> None:
    assert layers_of(repaired(THREE, COSTS, NODES[1:3])) == [("n1", 0, 6), ("n2", 6, 9)]


def test_without_room_there_is_none() -> None:
    with pytest.raises(PlacementError, match="too little"):
        repaired(THREE, COSTS, [node(0, 60_000_000), node(1, 60_000_000)])


def read_bytes(costs: ModelCosts, former: Placement, layers: dict[str, range]) -> int:
    held = {stage.node_id: stage.layers for stage in former.stages}
    return sum(
        costs.layers[x].owned_bytes(costs.n_experts, 0)
        for node_id in layers
        for x in layers[node_id]
        if x not in held[node_id]
    )


@settings(max_examples=80)
@given(models(7), st.lists(st.sampled_from([90_000_000, 150_000_000, LARGE]), min_size=3, max_size=4), st.data())
def test_no_cut_that_fits_reads_less(costs: ModelCosts, memory: list[int], data: st.DataObject) -> None:
    nodes = [node(i, nbytes) for i, nbytes in enumerate(memory)]
    n_layers = len(costs.layers)
    if n_layers < len(nodes):
        return
    cut = sorted(data.draw(st.permutations(range(1, n_layers)))[: len(nodes) - 1])
    splits = [b - a for a, b in itertools.pairwise([0, *cut, n_layers])]
    former = spread_over(costs, [node(i, 1 << 40) for i in range(len(nodes))], splits, ())
    left = [nodes[0], *data.draw(st.permutations(nodes[1:]))[1:]]
    ids = [stage.node_id for stage in former.stages if stage.node_id in {n.node_id for n in left}]
    possible = []
    for borders in itertools.combinations(range(1, n_layers), len(ids) - 1):
        layers = dict(zip(ids, (range(a, b) for a, b in itertools.pairwise([0, *borders, n_layers])), strict=True))
        stages = [StagePlacement(node_id, span) for node_id, span in layers.items()]
        held, free = loads(costs, stages), {n.node_id: budget(costs, n) for n in nodes}
        if all(load.weights_bytes + POSITIONS * load.kv_bytes <= free[node_id] for node_id, load in held.items()):
            possible.append(read_bytes(costs, former, layers))
    try:
        found = repaired(former, costs, left)
    except PlacementError:
        assert not possible
        return
    assert read_bytes(costs, former, {stage.node_id: stage.layers for stage in found.stages}) == min(possible)

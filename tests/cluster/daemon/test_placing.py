"""Placing: what the nodes that are here measured becomes what the planner needs."""

from dataclasses import replace

import pytest

from cluster.cost_reader import read_costs
from cluster.daemon import placing
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError, PlacementError
from cluster.membership.greeting import Greeting
from cluster.membership.membership import Answered, Greeted, LinkSpeed, Measured
from cluster.membership.node_info import NodeInfo
from cluster.membership.node_message import links_from_messages
from cluster.placement import Link
from cluster.wire import node_pb2 as pb
from tests.cluster.membership.test_membership import HARDWARE, info, target


def state_with(*others: NodeInfo) -> NodeState:
    state = NodeState(info(0), lambda _: None)
    for other in others:
        state.apply(Answered(target(other), other, 0.001))
        state.apply(Greeted(other))
    return state


def test_a_node_offers_what_it_says_and_not_all_that_it_has() -> None:
    capacities = placing.capacities(state_with(replace(info(1), offered_bytes=7 << 30)))
    assert [(c.name, c.memory_bytes) for c in capacities] == [("mac-0", 40 << 30), ("mac-1", 7 << 30)]


def test_a_link_between_two_others_is_taken_to_be_like_the_slower_one_to_them() -> None:
    state = state_with(info(1), info(2), info(3))
    state.apply(Measured(info(1).node_id, LinkSpeed(0.001, 1e9)))
    state.apply(Measured(info(2).node_id, LinkSpeed(0.009, 1e9)))
    links = placing.links(state)
    own, one, two, three = (info(n).node_id for n in range(4))
    assert links.between(own, one) == links.between(one, own) == Link(0.001, 1e9)
    assert links.between(one, two) == links.between(two, one) == Link(0.009, 1e9)
    assert links.between(own, three) == links.default


def test_links_that_others_have_measured_between_them_are_used() -> None:
    state = state_with(info(1), info(2), info(3))
    own, one, two, three = (info(n).node_id for n in range(4))
    state.apply(Measured(one, LinkSpeed(0.001, 1e9)))
    state.apply(Measured(two, LinkSpeed(0.009, 1e9)))
    direct = pb.MeasuredLink(node_id=two, latency_s=0.0002, bytes_per_s=2e9)
    wrong = pb.MeasuredLink(node_id=three, latency_s=float("nan"), bytes_per_s=-1)
    state.hear(one, Greeting(info(1), links=links_from_messages([direct, wrong])))
    links = placing.links(state)
    assert links.between(one, two) == links.between(two, one) == Link(0.0002, 2e9)
    assert links.between(own, two) == Link(0.009, 1e9)
    assert links.between(one, three) == links.default


def test_all_links_are_known_when_each_node_has_told_its_own() -> None:
    state, speed = state_with(info(1), info(2)), LinkSpeed(0.001, 1e9)
    own, one, two = (info(n).node_id for n in range(3))
    assert state_with().knows_all_links
    for node_id in (one, two):
        assert not state.knows_all_links
        state.apply(Measured(node_id, speed))
    state.hear(one, Greeting(info(1), links={own: speed, two: speed}))
    state.hear(two, Greeting(info(2), links={own: speed}))
    assert not state.knows_all_links
    state.hear(two, Greeting(info(2), links={own: speed, one: speed}))
    assert state.knows_all_links


def test_nodes_that_compute_in_different_numbers_are_refused_by_name() -> None:
    linux = replace(info(1), hardware=replace(HARDWARE, dtype="float32"))
    assert placing.float_bytes(state_with(info(1))) == 2
    with pytest.raises(ClusterError, match=r"mac-0 in bfloat16, mac-1 in float32"):
        placing.float_bytes(state_with(linux))


def test_the_longest_context_that_fits_is_taken_unless_one_is_asked_for() -> None:
    model = read_costs("demo", float_bytes=2)
    state = state_with()
    nodes, links = placing.capacities(state), placing.links(state)
    longest = min(max(placing.CONTEXTS), model.context.tokens)
    assert placing.place(model, nodes, links, 0, 1).context_tokens == longest
    assert placing.place(model, nodes, links, 100, 1).context_tokens == 100
    too_small = [replace(node, memory_bytes=1 << 20) for node in nodes]
    with pytest.raises(PlacementError):
        placing.place(model, too_small, links, 0, 1)

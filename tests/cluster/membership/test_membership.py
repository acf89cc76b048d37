"""Membership: who counts, whom to greet, who may not join; whatever the order of events."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError
from cluster.membership.contacts import FORGET_S, HEARTBEAT_S, MAX_OF_SOURCE, MAX_WAIT_S, TIMEOUT_S, Target
from cluster.membership.hardware import Hardware
from cluster.membership.membership import (
    FORGET_REFUSED_S,
    MAX_MEMBERS,
    SUSPECT_S,
    Announced,
    Answered,
    Change,
    Event,
    Failed,
    Gone,
    Greeted,
    Happening,
    Hinted,
    Left,
    LinkSpeed,
    Measured,
    Membership,
    Moved,
    Sent,
    State,
    Tick,
    changes,
)
from cluster.membership.node_info import NodeInfo

HARDWARE = Hardware("Apple M4 Pro", "metal", "bfloat16", 64 << 30, 48 << 30, 250.0, 6.3, "macOS", "0.32.4", 1.8e9)


def info(n: int, *, name: str = "", incarnation: int = 1, version: str = "0.1.0", address: str = "") -> NodeInfo:
    address = address or f"10.0.0.{n}:7000"
    return NodeInfo(f"{n:016x}", name or f"mac-{n}", (address,), version, incarnation, 40 << 30, HARDWARE)


OWN = info(0, address="10.0.0.100:7000")
ALONE = Membership(OWN)


def target(node: NodeInfo) -> Target:
    return Target(node.addresses, node.node_id)


def answered(node: NodeInfo, refusal: str = "") -> Answered:
    return Answered(target(node), node, 0.001, refusal)


def apply(membership: Membership, *events: Event, now: float = 0.0) -> Membership:
    for event in events:
        membership = membership.apply(event, now)
    return membership


def joined(*nodes: NodeInfo, now: float = 0.0) -> Membership:
    events = [event for node in nodes for event in (Hinted(target(node)), answered(node), Greeted(node))]
    return apply(ALONE, *events, now=now)


def state(membership: Membership, n: int) -> State:
    return membership.members[f"{n:016x}"].state


@pytest.mark.parametrize("first", [answered(info(1)), Greeted(info(1))])
def test_a_node_counts_only_when_both_directions_answered(first: Event) -> None:
    second = Greeted(info(1)) if isinstance(first, Answered) else answered(info(1))
    half = apply(ALONE, first)
    assert state(half, 1) is State.CONNECTING
    assert not half.present
    assert state(apply(half, second), 1) is State.PRESENT


@pytest.mark.parametrize("still_works", [answered(info(1)), Greeted(info(1))])
def test_a_cut_in_one_direction_loses_the_node(still_works: Event) -> None:
    membership = joined(info(1))
    for second in range(1, 7):
        membership = apply(membership, still_works, now=float(second))
        assert (state(membership, 1) is State.PRESENT) == (second <= TIMEOUT_S)
    assert state(membership, 1) is State.LOST


def test_silence_loses_a_node_and_events_alone_bring_it_back() -> None:
    lost = apply(joined(info(1)), Tick(), now=TIMEOUT_S + 0.1)
    assert state(lost, 1) is State.LOST
    back = apply(lost, answered(info(1)), Greeted(info(1)), now=60.0)
    assert state(back, 1) is State.PRESENT
    assert changes(lost, back) == [Change(Happening.BACK, "mac-1")]


@pytest.mark.parametrize("still_works", [answered(info(1)), Greeted(info(1))])
def test_a_node_that_is_silent_in_one_direction_is_shown_as_suspect_before_it_is_lost(still_works: Event) -> None:
    membership = joined(info(1))
    for now in (1.0, 2.0, SUSPECT_S + 0.1, TIMEOUT_S):
        membership = apply(membership, still_works, now=now)
        member = membership.members[info(1).node_id]
        assert member.silent_s(now) == now
        assert member.shown_state(now) is (State.SUSPECT if now > SUSPECT_S else State.PRESENT)
        assert membership.present
    heard = apply(membership, answered(info(1)), Greeted(info(1)), now=TIMEOUT_S).members[info(1).node_id]
    assert heard.shown_state(TIMEOUT_S) is State.PRESENT
    lost = apply(membership, Tick(), now=TIMEOUT_S + 0.1).members[info(1).node_id]
    assert (lost.shown_state(TIMEOUT_S + 0.1), lost.silent_s(TIMEOUT_S + 0.1)) == (State.LOST, 0)


def test_a_node_whose_connections_show_that_it_has_ended_is_lost_at_once_until_it_is_back() -> None:
    gone = apply(joined(info(1)), Gone(info(1).node_id), Gone("f" * 16))
    assert state(gone, 1) is State.LOST
    assert state(apply(gone, Greeted(info(1)), now=0.1), 1) is State.LOST
    assert state(apply(gone, Greeted(info(1)), answered(info(1)), now=0.1), 1) is State.PRESENT


def test_a_node_where_nothing_listens_any_more_is_lost_after_two_greetings() -> None:
    membership, refused = joined(info(1)), Failed(target(info(1)), "nothing listens there", is_refused=True)
    once = apply(membership, Sent(target(info(1))), refused, now=1.0)
    assert state(once, 1) is State.PRESENT
    assert state(apply(once, Sent(target(info(1))), refused, now=2.0), 1) is State.LOST
    silent = replace(refused, is_refused=False)
    assert state(apply(once, Sent(target(info(1))), silent, now=2.0), 1) is State.PRESENT


def test_an_address_that_a_restarted_node_has_left_does_not_lose_it() -> None:
    former, restarted = info(1), info(1, incarnation=2, address="10.0.0.1:7777")
    refused = Failed(target(former), "nothing listens there", is_refused=True)
    lost = apply(joined(former), *[Sent(target(former)), refused] * 2, Sent(target(former)), now=1.0)
    assert state(lost, 1) is State.LOST
    back = apply(lost, Hinted(target(restarted)), answered(restarted), Greeted(restarted), now=2.0)
    assert state(apply(back, refused, now=2.1), 1) is State.PRESENT
    again = replace(refused, target=target(restarted))
    assert state(apply(back, *[Sent(target(restarted)), again] * 2, now=3.0), 1) is State.LOST


def test_a_node_that_leaves_is_gone_at_once_and_may_return() -> None:
    left = apply(joined(info(1)), Left(info(1).node_id))
    assert state(left, 1) is State.LEFT
    assert state(apply(left, Tick(), answered(info(1)), now=1.0), 1) is State.LEFT
    ending = apply(left, Greeted(info(1)), answered(info(1)), now=1.0)
    assert state(ending, 1) is State.LEFT
    restarted = info(1, incarnation=2)
    assert state(apply(ending, answered(restarted), Greeted(restarted), now=2.0), 1) is State.PRESENT


def test_a_restarted_node_has_to_prove_both_directions_again() -> None:
    before = apply(joined(info(1)), Measured(info(1).node_id, LinkSpeed(0.001, 1e9)))
    restarted = info(1, incarnation=2)
    half = apply(before, Greeted(restarted), now=1.0)
    assert state(half, 1) is State.LOST
    assert half.members[restarted.node_id].link is None
    whole = apply(half, answered(restarted), now=1.1)
    assert state(whole, 1) is State.PRESENT
    assert [change.happening for change in changes(before, half) + changes(half, whole)] == ["lost", "back"]


def test_a_measured_link_is_kept_with_its_node() -> None:
    link = LinkSpeed(latency_s=0.0003, bytes_per_s=1.1e9)
    membership = apply(joined(info(1)), Measured(info(1).node_id, link), Measured("f" * 16, link))
    assert membership.members[info(1).node_id].link == link
    assert len(membership.members) == 1


def test_whoever_is_known_is_greeted_every_heartbeat() -> None:
    membership = joined(info(1))
    greeted_at = []
    for step in range(100):
        now = step / 10
        for due in membership.whom_to_greet(now):
            greeted_at.append(now)
            membership = apply(membership, Sent(due), Answered(due, info(1), 0.001), Greeted(info(1)), now=now)
    assert greeted_at == pytest.approx([second * HEARTBEAT_S for second in range(10)], abs=0.11)


def test_a_hint_that_never_answers_is_greeted_ever_more_seldom_and_forgotten() -> None:
    nobody = Target(("10.0.0.9:7000",))
    membership = apply(ALONE, Hinted(nobody))
    greeted_at = []
    now = 0.0
    while now < FORGET_S + 60:
        if membership.whom_to_greet(now):
            greeted_at.append(now)
            membership = apply(membership, Sent(nobody), Failed(nobody, "connection refused"), now=now)
        now += 0.5
        membership = apply(membership, Hinted(nobody) if now < 60 else Tick(), now=now)
    waits = [later - earlier for earlier, later in itertools.pairwise(greeted_at)]
    assert waits == sorted(waits)
    assert waits[:5] == [HEARTBEAT_S] * 5
    assert waits[-1] == MAX_WAIT_S
    assert not membership.contacts.by_target


def test_a_lost_node_that_greets_is_greeted_back_at_once() -> None:
    membership = joined(info(1))
    now = 0.0
    while now < 60.0:
        for due in membership.whom_to_greet(now):
            membership = apply(membership, Sent(due), Failed(due, "timed out"), now=now)
        now += 0.5
    membership = apply(membership, Sent(target(info(1))), now=now)
    assert not membership.whom_to_greet(now + 1)
    assert apply(membership, Greeted(info(1)), now=now + 1).whom_to_greet(now + 1) == (target(info(1)),)


def test_what_a_person_typed_is_never_forgotten_and_its_failure_told_once() -> None:
    typed = Target(("10.0.0.9:7000",))
    before = apply(ALONE, Hinted(typed, typed=True), Sent(typed))
    failed = apply(before, Failed(typed, "connection refused"))
    assert changes(before, failed) == [Change(Happening.UNREACHABLE, "10.0.0.9:7000", "connection refused")]
    assert changes(failed, apply(failed, Failed(typed, "timed out"))) == []
    assert apply(failed, Tick(), now=2 * FORGET_S).whom_to_greet(2 * FORGET_S) == (typed,)


def test_a_present_node_is_greeted_one_way_and_a_lost_one_every_way() -> None:
    typed = Target(("mac-1.local:7000",))
    membership = apply(joined(info(1)), Hinted(typed, typed=True), Answered(typed, info(1), 0.001), now=1.0)
    assert membership.whom_to_greet(2.0) == (typed,)
    lost = apply(membership, Tick(), now=10.0)
    assert set(lost.whom_to_greet(10.0)) == {typed, target(info(1))}


def test_a_node_with_a_second_network_is_greeted_there_too_and_then_one_way() -> None:
    before = joined(info(1))
    more = replace(info(1), addresses=("10.0.0.1:7000", "10.1.0.1:7000"), revision=1)
    membership = apply(before, answered(info(1)), Greeted(more), now=1.0)
    assert target(more) in membership.whom_to_greet(1.0)
    membership = apply(membership, Sent(target(more)), answered(more), now=1.1)
    assert membership.whom_to_greet(3.0) == (target(more),)


def test_a_node_that_says_to_be_where_it_was_before_is_greeted_there_at_once() -> None:
    elsewhere = replace(info(1), addresses=("10.0.0.50:7000",), revision=1)
    moved = apply(joined(info(1)), Greeted(elsewhere), Answered(target(elsewhere), elsewhere, 0.001), now=1.0)
    assert moved.whom_to_greet(2.5) == (target(elsewhere),)
    back = replace(info(1), revision=2)
    assert target(back) in apply(moved, Greeted(back), now=2.5).whom_to_greet(2.5)
    assert target(back) in apply(moved, Announced(target(back)), now=2.5).whom_to_greet(2.5)
    assert apply(moved, Greeted(info(1)), Hinted(target(back)), now=2.5).whom_to_greet(2.5) == (target(elsewhere),)


def test_another_way_is_tried_before_a_node_counts_as_lost() -> None:
    typed = Target(("mac-1.local:7000",))
    membership = apply(joined(info(1)), Hinted(typed, typed=True), Answered(typed, info(1), 0.001), now=0.0)
    membership = apply(membership, answered(info(1)), now=0.5)
    for now in (1.0, 2.0):
        assert membership.whom_to_greet(now) == (target(info(1)),)
        membership = apply(membership, Sent(target(info(1))), Greeted(info(1)), now=now)
    assert typed in membership.whom_to_greet(3.0)
    assert state(membership, 1) is State.PRESENT


def test_who_greets_is_greeted_at_the_address_it_came_from_too() -> None:
    membership = apply(ALONE, Greeted(info(1), "172.17.0.5:7000"))
    assert set(membership.whom_to_greet(0.0)) == {target(info(1)), Target(("172.17.0.5:7000",), info(1).node_id)}
    assert apply(ALONE, Greeted(info(1), info(1).addresses[0])).whom_to_greet(0.0) == (target(info(1)),)


def test_newer_addresses_replace_older_ones_and_never_the_other_way() -> None:
    moved = replace(info(1), addresses=("10.0.0.50:7000",), revision=1)
    membership = apply(joined(info(1)), Greeted(moved), Greeted(info(1)), answered(info(1)))
    assert membership.members[moved.node_id].info == moved
    restarted = info(1, incarnation=2)
    assert apply(membership, Greeted(restarted), now=TIMEOUT_S).members[moved.node_id].info == restarted


def test_own_new_addresses_are_told_and_all_are_greeted_from_there_at_once() -> None:
    before = apply(joined(info(1)), Sent(target(info(1))))
    assert not before.whom_to_greet(0.5)
    after = apply(before, Moved(("10.0.0.200:7000",)), now=0.5)
    assert after.own.addresses == ("10.0.0.200:7000",)
    assert after.own.revision == OWN.revision + 1
    assert after.whom_to_greet(0.5) == (target(info(1)),)
    (change,) = changes(before, after)
    assert change == Change(Happening.MOVED, OWN.name, "this node is at 10.0.0.200:7000 now")
    (change,) = changes(after, apply(after, Moved(("127.0.0.1:7000",))))
    assert "no network" in change.reason


def test_own_addresses_are_not_greeted() -> None:
    own_by_another_way = Target(("172.17.0.1:7000",))
    membership = apply(ALONE, Hinted(Target(OWN.addresses)), Hinted(own_by_another_way))
    assert membership.whom_to_greet(0.0) == (own_by_another_way,)
    membership = apply(membership, Answered(own_by_another_way, OWN, 0.001), Greeted(OWN))
    assert not membership.whom_to_greet(100.0)
    assert not membership.members
    assert not membership.refused


def test_a_copied_folder_of_this_node_is_refused_with_the_cure() -> None:
    copy = info(0, incarnation=2, name="copy")
    refused = apply(ALONE, Greeted(copy))
    assert not refused.members
    reason = refused.refusal(copy)
    assert all(part in reason for part in ("copy", OWN.name, OWN.node_id, "identity", "join it again"))
    assert changes(ALONE, refused) == [Change(Happening.REFUSED, "copy", reason)]
    assert changes(refused, apply(refused, Greeted(copy), now=1.0)) == []


def test_the_second_of_two_nodes_with_one_id_is_refused_while_the_first_lives() -> None:
    first, second = info(1, incarnation=1), info(1, incarnation=2, address="10.0.0.77:7000")
    membership = joined(first)
    for now in (1.0, 2.0, 3.0):
        membership = apply(membership, answered(first), Greeted(first), answered(second), Greeted(second), now=now)
    assert membership.members[first.node_id].info == first
    assert state(membership, 1) is State.PRESENT
    assert "identity" in membership.refusal(second)
    assert membership.refusal(first) == ""
    alone = apply(membership, answered(second), Greeted(second), now=3.0 + TIMEOUT_S)
    assert alone.members[first.node_id].info == second
    assert alone.refusal(second) == ""


def test_a_copy_that_answers_is_not_taken_for_a_better_way_to_the_first() -> None:
    first, copy = info(1), info(1, incarnation=2, address="10.0.0.77:7000")
    membership = apply(joined(first), Hinted(target(copy)), answered(copy), now=1.0)
    assert target(first) in membership.whom_to_greet(1.0)


def test_another_major_version_is_refused_with_both_named_until_it_is_updated() -> None:
    newer = info(1, version="1.2.0")
    refused = apply(ALONE, answered(newer), Greeted(newer))
    assert not refused.members
    assert "1.2.0" in refused.refusal(newer)
    assert OWN.version in refused.refusal(newer)
    updated = info(1, incarnation=2)
    membership = apply(refused, answered(updated), Greeted(updated), now=1.0)
    assert state(membership, 1) is State.PRESENT
    assert not membership.refused


def test_another_minor_version_may_join() -> None:
    assert state(joined(info(1, version="0.9.3")), 1) is State.PRESENT


def test_a_node_that_refuses_this_one_is_no_member_until_it_answers_without() -> None:
    before = joined(info(1))
    refused = apply(before, answered(info(1), "you are a copy"), Greeted(info(1)), now=1.0)
    assert not refused.members
    assert "you are a copy" in refused.refused[info(1).node_id].reason
    accepted = apply(refused, answered(info(1)), Greeted(info(1)), now=2.0)
    assert state(accepted, 1) is State.PRESENT
    assert not accepted.refused


def greet(sender: Membership, receiver: Membership, now: float) -> tuple[Membership, Membership]:
    """Let one node greet another, as daemons do; return both."""
    receiver = receiver.apply(Greeted(sender.own), now)
    refusal = receiver.refusal(sender.own)
    return sender.apply(Answered(target(receiver.own), receiver.own, 0.001, refusal), now), receiver


TICK_S = 0.25


class Pair:
    """Two nodes that greet each other as daemons do, over a wire that may be cut; and what they say of each other."""

    def __init__(self, offset_s: float) -> None:
        self.nodes = [apply(Membership(info(n)), Hinted(target(info(3 - n)))) for n in (1, 2)]
        self.said: list[list[Happening]] = [[], []]
        self._offset_s = offset_s
        self._now = 0.0

    def run(self, seconds: float, *, is_cut: bool) -> None:
        end = self._now + seconds
        while self._now < end:
            self._now += TICK_S
            self._tick(0, self._now, is_cut)
            self._tick(1, self._now + self._offset_s, is_cut)

    def _tick(self, n: int, now: float, is_cut: bool) -> None:
        for due in self.nodes[n].whom_to_greet(now):
            self._apply(n, Sent(due), now)
            if is_cut:
                self._apply(n, Failed(due, "no answer"), now)
            else:
                self._apply(1 - n, Greeted(self.nodes[n].own), now)
                self._apply(n, Answered(due, self.nodes[1 - n].own, 0.001), now)
        self._apply(n, Tick(), now)

    def _apply(self, n: int, event: Event, now: float) -> None:
        before = self.nodes[n]
        self.nodes[n] = before.apply(event, now)
        self.said[n] += [change.happening for change in changes(before, self.nodes[n])]


@given(st.floats(0.01, TICK_S - 0.01), st.floats(2 * TIMEOUT_S, 60.0), st.floats(0.1, 5.0))
def test_a_cut_that_is_healed_is_told_once_at_both_ends(offset_s: float, cut_s: float, before_s: float) -> None:
    pair = Pair(offset_s)
    pair.run(before_s, is_cut=False)
    pair.run(cut_s, is_cut=True)
    pair.run(25.0, is_cut=False)
    assert pair.said == [[Happening.JOINED, Happening.LOST, Happening.BACK]] * 2


def test_a_node_that_is_restarted_elsewhere_at_once_is_refused_only_while_it_may_be_a_copy() -> None:
    own, restarted = joined(info(1)), Membership(info(1, incarnation=2, address="10.0.0.1:7777"))
    longest = 0
    for tick in range(1, 12):
        own, restarted = greet(own, restarted, 0.5 * tick)
        restarted, own = greet(restarted, own, 0.5 * tick + 0.1)
        longest = max(longest, *(len(r.reason) for m in (own, restarted) for r in m.refused.values()), 0)
    assert own.present[0].info == restarted.own
    assert restarted.present[0].info == own.own
    assert not own.refused
    assert not restarted.refused
    assert 0 < longest < 400


def test_a_refused_node_that_is_gone_is_forgotten() -> None:
    refused = apply(ALONE, Greeted(info(1, version="9.0")))
    assert not apply(refused, Tick(), now=FORGET_REFUSED_S + 1).refused


def test_members_are_bounded_and_the_next_one_is_told() -> None:
    full = joined(*(info(n) for n in range(1, MAX_MEMBERS + 1)))
    over = apply(full, Greeted(info(200)))
    assert len(over.members) == MAX_MEMBERS
    assert str(MAX_MEMBERS + 1) in over.refusal(info(200))


def test_hints_are_bounded_and_never_push_out_who_answered_or_was_typed() -> None:
    typed = Target(("10.9.9.9:7000",))
    membership = apply(joined(info(1)), Hinted(typed, typed=True))
    for n in range(MAX_OF_SOURCE + 50):
        membership = apply(membership, Hinted(Target((f"host{n}:1",)), source=info(1).node_id), now=1.0)
    assert len(membership.contacts.by_target) == MAX_OF_SOURCE + 2
    assert {typed, target(info(1))} <= set(membership.contacts.by_target)


def test_a_name_that_two_have_gets_a_suffix_and_a_warning() -> None:
    before = joined(info(1, name="mac"))
    after = apply(before, answered(info(2, name="mac")), Greeted(info(2, name="mac")))
    assert list(after.names().values()) == ["mac-0", "mac", "mac-2"]
    renamed = [change for change in changes(before, after) if change.happening is Happening.RENAMED]
    assert [change.name for change in renamed] == ["mac-2"]
    assert info(2).node_id in renamed[0].reason
    assert changes(after, after) == []


def test_what_a_node_says_of_itself_is_checked() -> None:
    for wrong in (
        {"node_id": "xyz"},
        {"name": "\x1b[31m"},
        {"addresses": ()},
        {"addresses": ("host",)},
        {"addresses": ("host:70000",)},
        {"addresses": ("slow-to-look-up.example:7000",)},
        {"offered_bytes": HARDWARE.memory_bytes + 1},
        {"version": "latest"},
        {"incarnation": -1},
    ):
        with pytest.raises(ClusterError, match=next(iter(wrong))):
            replace(info(1), **wrong)


NODES = [
    info(1),
    info(1, incarnation=2),
    info(1, incarnation=3, address="10.0.0.33:7000"),
    info(2, name="mac-1"),
    info(3, version="1.0.0"),
    info(4),
    OWN,
    info(0, incarnation=9),
]
nodes = st.sampled_from(NODES)
targets = nodes.map(target) | st.sampled_from([Target(("10.0.0.1:7000",)), Target(("10.9.9.9:1",), "e" * 16)])
ids = nodes.map(lambda node: node.node_id)
events = st.one_of(
    st.builds(Hinted, targets, st.booleans()),
    st.builds(Announced, targets),
    st.builds(Sent, targets),
    st.builds(Answered, targets, nodes, st.just(0.001), st.sampled_from(["", "", "no"])),
    st.builds(Failed, targets, st.just("refused")),
    st.builds(Greeted, nodes),
    st.builds(Measured, ids, st.just(LinkSpeed(0.001, 1e9))),
    st.builds(Left, ids),
    st.just(Tick()),
)
histories = st.lists(st.tuples(events, st.sampled_from([0.0, 0.1, 1.0, 3.0, 6.0, FORGET_S])), max_size=40)


@given(histories)
def test_whatever_happens_only_nodes_of_both_directions_count(history: list[tuple[Event, float]]) -> None:
    membership, now = ALONE, 0.0
    for event, passed in history:
        now += passed
        before, membership = membership, membership.apply(event, now)
        assert membership == before.apply(event, now)
        assert OWN.node_id not in membership.members
        for node_id, member in membership.members.items():
            assert member.info.node_id == node_id
            assert member.info.major_version == OWN.major_version
            assert (member.state is State.PRESENT) == member.is_here(now)
            assert membership.refusal(member.info) == ""
        for happened in changes(before, membership):
            assert happened.name
        assert set(membership.whom_to_greet(now)) <= set(membership.contacts.by_target)
        assert membership.apply(Tick(), now) == membership


@given(histories, st.sampled_from([info(1), info(2), info(4)]))
def test_whatever_happened_a_node_that_speaks_again_counts_again(
    history: list[tuple[Event, float]], node: NodeInfo
) -> None:
    membership, now = ALONE, 0.0
    for event, passed in history:
        now += passed
        membership = membership.apply(event, now)
    silence = now + TIMEOUT_S + 1
    membership = apply(membership, Tick(), answered(node), Greeted(node), now=silence)
    assert membership.members[node.node_id].state is State.PRESENT


@given(st.permutations([info(n, name=name) for n, name in enumerate(["a", "a", "a-2", "b", "a"], 1)]))
def test_names_are_unique_and_the_same_in_any_order(order: list[NodeInfo]) -> None:
    names = joined(*order).names()
    assert len(set(names.values())) == len(names)
    assert list(names.values()) == ["mac-0", "a", "a-3", "a-2", "b", "a-4"]

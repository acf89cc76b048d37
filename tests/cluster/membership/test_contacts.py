"""Contacts: who lies about where nodes are fills its own places, and nobody else's."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cluster.membership.contacts import (
    ANNOUNCED,
    MAX_DIALS,
    MAX_OF_NODE,
    MAX_OF_SOURCE,
    MAX_UNPROVEN,
    Contacts,
    Target,
)

LIARS = ("1" * 16, "2" * 16, ANNOUNCED)
HONEST, MEMBER, NEW = "a" * 16, "b" * 16, "c" * 16
NODES = (MEMBER, NEW, "d" * 16, "e" * 16)

known = Target(("10.0.0.1:7000",), MEMBER)
new = Target(("10.0.0.2:7000", "10.1.0.2:7000"), NEW)

lies = st.tuples(
    st.sampled_from(LIARS),
    st.sampled_from(["hinted", "announced"]),
    st.integers(0, 10_000),
    st.sampled_from([*NODES, None]),  # None: another one each time
)


def true_contacts() -> Contacts:
    """Return the contacts of a node that knows one member and was told of a new node."""
    contacts = Contacts().hinted(known, kept=False, now=0.0, source=LIARS[0]).answered(known, MEMBER, 0.0)
    return contacts.hinted(new, kept=False, now=0.0, source=HONEST)


def lied(contacts: Contacts, lie: tuple[str, str, int, str | None], now: float) -> Contacts:
    source, how, n, node_id = lie
    target = Target((f"10.66.{n >> 8}.{n & 255}:7000",), node_id or f"{n:016x}")
    if how == "announced":
        return contacts.announced(target, now, source)
    return contacts.hinted(target, kept=False, now=now, source=source)


def test_a_contact_that_takes_the_place_of_another_source_counts_for_its_own() -> None:
    told = [*((HONEST, "hinted", n, MEMBER) for n in range(MAX_OF_NODE))]
    told += [(LIARS[0], "hinted", 100 + n, None) for n in range(MAX_OF_SOURCE)] + [(LIARS[0], "hinted", 900, MEMBER)]
    contacts = Contacts()
    for now, lie in enumerate(told):
        contacts = lied(contacts, lie, float(now))
    count = Counter(contact.source for contact in contacts.by_target.values())
    assert count == {HONEST: MAX_OF_NODE - 1, LIARS[0]: MAX_OF_SOURCE}


@given(st.lists(lies, min_size=1, max_size=40), st.integers(1, 20))
def test_no_lies_push_out_a_member_or_what_an_honest_node_says(
    told: list[tuple[str, str, int, str | None]], rounds: int
) -> None:
    contacts, now = true_contacts(), 0.0
    for turn in range(rounds):
        for source, how, n, node_id in told:
            now += 0.01
            contacts = lied(contacts, (source, how, n + 13 * turn, node_id), now)
            assert {known, new} <= contacts.by_target.keys()
        for target in contacts.due({MEMBER}, now):
            contacts = contacts.sent(target, now)
    unproven = [contact for contact in contacts.by_target.values() if not contact.is_proven]
    assert len(unproven) <= MAX_UNPROVEN
    assert max(Counter(contact.source for contact in unproven).values()) <= MAX_OF_SOURCE
    assert max(Counter(contact.node_id for contact in contacts.by_target.values()).values()) <= MAX_OF_NODE


def test_ten_thousand_lies_leave_few_contacts_and_few_greetings_at_once() -> None:
    contacts = true_contacts()
    for n in range(10_000):
        contacts = lied(contacts, (f"{n % 7:016x}", "hinted", n, None), 1.0)
    assert len(contacts.by_target) <= MAX_UNPROVEN + 1
    due = contacts.due({MEMBER}, 1.0)
    assert len(due) == MAX_DIALS + 1
    assert {known, new} <= {*due}  # each source in turn
    assert contacts.due({MEMBER}, 1.0, room=0) == (known,)


def test_a_node_with_many_addresses_keeps_the_one_that_answers() -> None:
    contacts = true_contacts()
    for n in range(100):
        contacts = contacts.announced(Target((f"10.0.1.{n}:7000",), MEMBER), 1.0 + n, MEMBER)
    assert known in contacts.by_target
    assert sum(contact.node_id == MEMBER for contact in contacts.by_target.values()) == MAX_OF_NODE

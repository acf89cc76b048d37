"""Contacts: which addresses this node greets, and when. Pure: time is passed in; the caller sends the greetings.

Anybody on the network announces addresses, and members pass on others. Contacts are *proven* once a member has answered
there; until then they are bounded by node, by source and in all, so that a liar pushes out only its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass, field, replace

HEARTBEAT_S = 1.0
TIMEOUT_S = 5.0
"""A node that was silent for longer is lost."""

MAX_WAIT_S = 10.0
"""Longest time between greetings to a target that does not answer; a repaired network is noticed within it."""

FORGET_S = 3600.0

MAX_UNPROVEN = 256
MAX_OF_SOURCE = 64
"""Unproven contacts in all, and of one source: a node knows at most that many others."""

MAX_OF_NODE = 8
"""Contacts of one node, proven or not: it has a few networks, and moves between them."""

MAX_DIALS = 8
"""Unproven contacts that are greeted at once."""

OWN = ""
ANNOUNCED = "announced"
"""Sources of contacts beside the ids of nodes: this node, with its person; and what anybody announces by mDNS."""

_PATIENCE = int(TIMEOUT_S / HEARTBEAT_S)

_DOUBT = 2
"""Number of unanswered greetings after which other addresses of a node are tried. One may still be on its way."""


@dataclass(frozen=True, slots=True)
class Target:
    """The addresses of one host, and the id of the node that is said to be there ("" if unknown)."""

    addresses: tuple[str, ...]
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class Contact:
    """What is known about a target, and when to greet it next. Times are monotonic seconds.

    `node_id` is the node that answered there, before that the one that is said to be there. `kept` contacts were typed
    by a person and are not forgotten. `source` said first that a node is there. `unanswered` counts greetings;
    `failure` says why the last one failed.
    """

    target: Target
    node_id: str
    kept: bool
    heard_at: float
    greet_at: float
    source: str = OWN
    unanswered: int = 0
    answered: bool = False
    failure: str = ""

    @property
    def is_proven(self) -> bool:
        """Whether a node that is not refused has answered there. A person's word counts as much."""
        return self.kept or (self.answered and bool(self.node_id))


@dataclass(frozen=True, slots=True)
class Contacts:
    """All contacts by target. Immutable: every method returns new contacts."""

    by_target: Mapping[Target, Contact] = field(default_factory=dict)

    def hinted(self, target: Target, kept: bool, now: float, source: str = OWN) -> Contacts:
        """Add a target that is greeted at once; a known one keeps its next time, however often it is hinted."""
        known = self.by_target.get(target)
        if known is not None:
            return self if known.kept or not kept else self._with(replace(known, kept=True))
        contact = Contact(target, target.node_id, kept, heard_at=now, greet_at=now, source=source)
        return self._with(contact)._bounded(contact)

    def announced(self, target: Target, now: float, source: str = ANNOUNCED) -> Contacts:
        """Add a target that a node announces as its new address: greeted at once, even if it was known before."""
        known = self.by_target.get(target)
        if known is None:
            return self.hinted(target, kept=False, now=now, source=source)
        return self._with(replace(known, heard_at=now, greet_at=now, unanswered=0, answered=False))

    def greeting_us(self, target: Target, now: float) -> Contacts:
        """Add a target that greeted this node; if it was silent so long that greetings became rare, greet it now."""
        known = self.by_target.get(target)
        if known is None:
            return self.hinted(target, kept=False, now=now, source=target.node_id)
        if known.unanswered <= _PATIENCE:
            return self
        return self._with(replace(known, heard_at=now, greet_at=now, unanswered=0))

    def sent(self, target: Target, now: float) -> Contacts:
        """Record that a greeting was sent; the next one follows after a heartbeat.

        After TIMEOUT_S of unanswered greetings, the time to the next one doubles each time, up to MAX_WAIT_S.
        """
        contact = self.by_target.get(target)
        if contact is None:
            return self
        doublings = min(max(0, contact.unanswered - _PATIENCE), 8)
        wait_s = min(HEARTBEAT_S * 2**doublings, MAX_WAIT_S)
        return self._with(replace(contact, unanswered=contact.unanswered + 1, greet_at=now + wait_s))

    def answered(self, target: Target, node_id: str, now: float) -> Contacts:
        """Record which node answered at a target."""
        contact = self.by_target.get(target)
        if contact is None:
            return self
        # After a long silence the next greeting would come too late, and the node would count as lost until then
        greet_at = min(contact.greet_at, now + HEARTBEAT_S)
        answered = replace(contact, node_id=node_id, heard_at=now, greet_at=greet_at, unanswered=0, answered=True)
        return self._with(replace(answered, failure=""))

    def failed(self, target: Target, failure: str) -> Contacts:
        """Record why a greeting was not answered."""
        contact = self.by_target.get(target)
        return self if contact is None else self._with(replace(contact, failure=failure))

    def without(self, target: Target) -> Contacts:
        """Remove a target."""
        return Contacts({other: contact for other, contact in self.by_target.items() if other != target})

    def without_silent(self, now: float) -> Contacts:
        """Remove the contacts that were silent for FORGET_S, except kept ones."""
        heard = {t: c for t, c in self.by_target.items() if c.kept or now - c.heard_at <= FORGET_S}
        return self if len(heard) == len(self.by_target) else Contacts(heard)

    def is_doubtful(self, target: Target) -> bool:
        """Whether several greetings in a row were not answered at a target, and its node has answered nowhere later."""
        contact = self.by_target.get(target)
        if contact is None or contact.unanswered < _DOUBT:
            return False
        others = (other for other in self.by_target.values() if other.answered and other.node_id == contact.node_id)
        return not any(other.heard_at > contact.heard_at for other in others)

    def node_at(self, target: Target) -> str:
        """Return the id of the node that answered at a target or is said to be there, "" if unknown."""
        contact = self.by_target.get(target)
        return "" if contact is None else contact.node_id

    def all_at_once(self, now: float) -> Contacts:
        """Greet all contacts now: this machine's network has changed, and with it the nodes that it can reach."""
        return Contacts({t: replace(c, greet_at=now, unanswered=0) for t, c in self.by_target.items()})

    def due(self, present: Set[str], now: float, room: int = MAX_DIALS) -> tuple[Target, ...]:
        """Return the targets to greet now, of the unproven ones at most `room`, of each source in turn.

        For a node that is present: the target that answered last, and those that have never answered; but all of its
        targets after _DOUBT unanswered greetings.
        """
        best: dict[str, Contact] = {}
        for contact in self.by_target.values():
            best[contact.node_id] = max(best.get(contact.node_id, contact), contact, key=_preference)
        certain = {i for i in present if i in best and best[i].answered and best[i].unanswered < _DOUBT}
        due = [
            contact
            for contact in self.by_target.values()
            if contact.greet_at <= now
            and (contact.node_id not in certain or contact is best[contact.node_id] or not contact.answered)
        ]
        proven = [contact for contact in due if contact.is_proven]
        unproven = _in_turns([contact for contact in due if not contact.is_proven])
        return tuple(contact.target for contact in (*proven, *unproven[: max(0, room)]))

    def _with(self, contact: Contact) -> Contacts:
        return Contacts({**self.by_target, contact.target: contact})

    def _bounded(self, added: Contact) -> Contacts:
        """Drop what `added` is too many of: contacts of its node, of its source, or of all. One may be enough."""
        unkept = [contact for contact in self.by_target.values() if not contact.kept]
        unproven = [contact for contact in unkept if not contact.is_proven]
        of_node = [contact for contact in unkept if contact.node_id == added.node_id != ""]
        of_source = [contact for contact in unproven if contact.source == added.source]
        bounded = self
        for group, most in ((of_node, MAX_OF_NODE), (of_source, MAX_OF_SOURCE), (unproven, MAX_UNPROVEN)):
            left = [contact for contact in group if contact.target in bounded.by_target]
            if len(left) > most:
                bounded = bounded.without(_worst(left).target)
        return bounded


def _worst(contacts: Collection[Contact]) -> Contact:
    """Return which of too many contacts to drop: an unproven one, of the source with most of these, tried in vain."""
    count = Counter(contact.source for contact in contacts if not contact.is_proven)
    return min(contacts, key=lambda c: (c.is_proven, -count[c.source], not c.unanswered, c.heard_at))


def _in_turns(contacts: Collection[Contact]) -> list[Contact]:
    """Return contacts so that each source has one in turn, its longest overdue first."""
    turns: Counter[str] = Counter()
    order: list[tuple[int, int, Contact]] = []
    for contact in sorted(contacts, key=lambda contact: contact.greet_at):
        turns[contact.source] += 1
        order.append((turns[contact.source], len(order), contact))
    return [contact for *_, contact in sorted(order, key=lambda place: place[:2])]


def _preference(contact: Contact) -> tuple[bool, bool, float]:
    return contact.answered, contact.unanswered < _DOUBT, contact.heard_at

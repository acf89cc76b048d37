"""Contacts: whom this node greets and when. Pure: time is passed in, and greeting is somebody else's."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace

HEARTBEAT_S = 1.0
TIMEOUT_S = 5.0
"""A node that was silent so long is lost."""

MAX_WAIT_S = 10.0
"""Between greetings of somebody who never answers, and so the time after which a healed network is noticed."""

FORGET_S = 3600.0
MAX_CONTACTS = 256

_PATIENCE = int(TIMEOUT_S / HEARTBEAT_S)

_DOUBT = 2
"""Greetings without an answer after which other ways to a node are tried: the first may still be on its way."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where somebody may be reached: the addresses of one host, and who is said to be there ("" if nobody said)."""

    addresses: tuple[str, ...]
    node_id: str = ""


@dataclass(frozen=True, slots=True)
class Contact:
    """What is known of a target: who answered there (before that, who is said to), and when to greet it next.

    `kept` ones were typed by a person and are not forgotten. `failure` says why the last greeting failed.
    """

    target: Target
    node_id: str
    kept: bool
    heard_at: float
    greet_at: float
    unanswered: int = 0
    answered: bool = False
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Contacts:
    """All targets; immutable, every verb returns the contacts afterwards."""

    by_target: Mapping[Target, Contact] = field(default_factory=dict)

    def hinted(self, target: Target, kept: bool, now: float) -> Contacts:
        """Add a target, to be greeted at once; one that is known keeps its turn, however often it is told."""
        known = self.by_target.get(target)
        if known is not None:
            return self if known.kept or not kept else self._with(replace(known, kept=True))
        return self._with(Contact(target, target.node_id, kept, heard_at=now, greet_at=now))._bounded()

    def announced(self, target: Target, now: float) -> Contacts:
        """Add a target where somebody says to be from now on: greeted at once, even where it was known from before."""
        known = self.by_target.get(target)
        if known is None:
            return self.hinted(target, kept=False, now=now)
        return self._with(replace(known, heard_at=now, greet_at=now, unanswered=0, answered=False))

    def greeting_us(self, target: Target, now: float) -> Contacts:
        """Add a target that greeted this node; if it was greeted but seldom, for it was silent, it is so at once."""
        known = self.by_target.get(target)
        if known is None:
            return self.hinted(target, kept=False, now=now)
        if known.unanswered <= _PATIENCE:
            return self
        return self._with(replace(known, heard_at=now, greet_at=now, unanswered=0))

    def sent(self, target: Target, now: float) -> Contacts:
        """Note that a greeting is on its way; the next one follows in a heartbeat.

        After as many unanswered ones as fit the timeout, ever more seldom.
        """
        contact = self.by_target.get(target)
        if contact is None:
            return self
        doublings = min(max(0, contact.unanswered - _PATIENCE), 8)
        wait_s = min(HEARTBEAT_S * 2**doublings, MAX_WAIT_S)
        return self._with(replace(contact, unanswered=contact.unanswered + 1, greet_at=now + wait_s))

    def answered(self, target: Target, node_id: str, now: float) -> Contacts:
        """Note who answered at a target."""
        contact = self.by_target.get(target)
        if contact is None:
            return self
        # Where it was greeted but seldom, the next one must not wait as long: it would be taken for lost meanwhile
        greet_at = min(contact.greet_at, now + HEARTBEAT_S)
        answered = replace(contact, node_id=node_id, heard_at=now, greet_at=greet_at, unanswered=0, answered=True)
        return self._with(replace(answered, failure=""))

    def failed(self, target: Target, failure: str) -> Contacts:
        """Note why a greeting was not answered."""
        contact = self.by_target.get(target)
        return self if contact is None else self._with(replace(contact, failure=failure))

    def without(self, target: Target) -> Contacts:
        """Leave a target out."""
        return Contacts({other: contact for other, contact in self.by_target.items() if other != target})

    def without_silent(self, now: float) -> Contacts:
        """Forget those of whom nothing was heard for long."""
        heard = {t: c for t, c in self.by_target.items() if c.kept or now - c.heard_at <= FORGET_S}
        return self if len(heard) == len(self.by_target) else Contacts(heard)

    def node_at(self, target: Target) -> str:
        """Return the id of who answered at a target or is said to be there, "" if nobody is."""
        contact = self.by_target.get(target)
        return "" if contact is None else contact.node_id

    def all_at_once(self, now: float) -> Contacts:
        """Give all their turn now: this machine's network has changed, and with it who can be reached."""
        return Contacts({t: replace(c, greet_at=now, unanswered=0) for t, c in self.by_target.items()})

    def due(self, present: Set[str], now: float) -> tuple[Target, ...]:
        """Return the targets to greet now.

        Of a node that is present, these are the one that answered last, and others that have not answered yet; all of
        them while the one leaves a doubt.
        """
        best: dict[str, Contact] = {}
        for contact in self.by_target.values():
            best[contact.node_id] = max(best.get(contact.node_id, contact), contact, key=_preference)
        certain = {i for i in present if i in best and best[i].answered and best[i].unanswered < _DOUBT}
        return tuple(
            contact.target
            for contact in self.by_target.values()
            if contact.greet_at <= now
            and (contact.node_id not in certain or contact is best[contact.node_id] or not contact.answered)
        )

    def _with(self, contact: Contact) -> Contacts:
        return Contacts({**self.by_target, contact.target: contact})

    def _bounded(self) -> Contacts:
        """Drop the oldest hint if there are too many; those who answered go last."""
        unkept = [contact for contact in self.by_target.values() if not contact.kept]
        if len(unkept) <= MAX_CONTACTS:
            return self
        return self.without(min(unkept, key=lambda contact: (contact.answered, contact.heard_at)).target)


def _preference(contact: Contact) -> tuple[bool, bool, float]:
    return contact.answered, contact.unanswered < _DOUBT, contact.heard_at

"""Membership: which nodes are present, as a fold over events. Pure: time is passed in, nothing is sent or logged.

    connecting ──both directions──> present ──silence in either──> lost ──both directions──> present
                                       └────it leaves─────────> left ──both directions──> present

A node that left is not heard for TIMEOUT_S, unless it was restarted: its process speaks until it has ended.
A node is present while it answers this node's greetings *and* greets this node, each within TIMEOUT_S: if a network
works in one direction only, the node is lost. A node that may not join is not a member but is listed in `refused`.
Events must be applied in the order of their times. Ticks notice silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cluster.membership.address import is_loopback
from cluster.membership.contacts import FORGET_S, HEARTBEAT_S, MAX_DIALS, OWN, TIMEOUT_S, Contacts, Target
from cluster.membership.node_info import NodeInfo

MAX_MEMBERS = 64
FORGET_REFUSED_S = 60.0

JOIN_ANEW = "to use it again, moe-cluster leave on it, then moe-cluster up --join - with a new token"

ALIVE_S = 2.5 * HEARTBEAT_S
"""A node that was silent for longer may have been restarted elsewhere; before that, another with its id is a copy."""


SUSPECT_S = 2.5
"""A present node that was silent for longer is shown as suspect: stopped, overloaded or cut off for a moment."""


class State(StrEnum):
    """The state of a member. SUSPECT is PRESENT, but silent: see `Member.shown_state`."""

    CONNECTING = "connecting"
    PRESENT = "present"
    SUSPECT = "suspect"
    LOST = "lost"
    LEFT = "left"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class LinkSpeed:
    """The measured speed of a link to a node: one-way latency in seconds, and bytes per second."""

    latency_s: float
    bytes_per_s: float


NO_LINK = LinkSpeed(60.0, 1.0)
"""Said of the link to a node that was lost, which others may still reach."""


@dataclass(frozen=True, slots=True)
class Member:
    """Another node. Times are monotonic seconds of the daemon."""

    info: NodeInfo
    heard_at: float
    state: State = State.CONNECTING
    answered_at: float | None = None
    greeted_at: float | None = None
    rtt_s: float | None = None
    link: LinkSpeed | None = None

    def is_here(self, now: float) -> bool:
        """Whether both directions worked within the timeout."""
        return all(at is not None and now - at <= TIMEOUT_S for at in (self.answered_at, self.greeted_at))

    def silent_s(self, now: float) -> float:
        """Return for how long at least one direction has been silent; 0 if the node is not present."""
        times = [at for at in (self.answered_at, self.greeted_at) if at is not None]
        return max(0.0, now - min(times)) if times and self.state is State.PRESENT else 0.0

    def shown_state(self, now: float) -> State:
        """Return its state for people: SUSPECT if it is present, but has been silent."""
        return State.SUSPECT if self.silent_s(now) > SUSPECT_S else self.state


@dataclass(frozen=True, slots=True)
class Refusal:
    """A node that may not join, and why; `is_theirs`: the reason is that it refuses this node."""

    info: NodeInfo
    reason: str
    at: float
    is_theirs: bool = False


@dataclass(frozen=True, slots=True)
class Hinted:
    """A node may be reachable at a target, according to the node `source` or, if `typed`, to a person."""

    target: Target
    typed: bool = False
    source: str = OWN


@dataclass(frozen=True, slots=True)
class Announced:
    """A node announced by mDNS that it is at a target from now on."""

    target: Target


@dataclass(frozen=True, slots=True)
class Sent:
    """A greeting was sent to a target."""

    target: Target


@dataclass(frozen=True, slots=True)
class Answered:
    """A greeting was answered after `rtt_s`; `refusal` says why the node refuses this one, "" if it does not."""

    target: Target
    info: NodeInfo
    rtt_s: float
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """A greeting was not answered; `is_refused`: nothing listens at the target any more."""

    target: Target
    failure: str
    is_refused: bool = False


@dataclass(frozen=True, slots=True)
class Greeted:
    """A node greeted this one; `at` is a possible address of it, derived from the source of the greeting."""

    info: NodeInfo
    at: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """The link to a node was measured."""

    node_id: str
    link: LinkSpeed


@dataclass(frozen=True, slots=True)
class Gone:
    """A present node has ended, as its closed connections show: it is lost without waiting for its silence."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Left:
    """A node announced that it leaves."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Removed:
    """Nodes were removed from the cluster; they never come back."""

    node_ids: Set[str]


@dataclass(frozen=True, slots=True)
class Moved:
    """This node's own addresses have changed."""

    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Hinted | Announced | Sent | Answered | Failed | Greeted | Measured | Gone | Left | Removed | Moved | Tick


@dataclass(frozen=True, slots=True)
class Membership:
    """What this node knows about the others; `members` and `refused` are keyed by node id. Immutable.

    `removed` are the ids of nodes that may never be present again.
    """

    own: NodeInfo
    members: Mapping[str, Member] = field(default_factory=dict)
    refused: Mapping[str, Refusal] = field(default_factory=dict)
    contacts: Contacts = field(default_factory=Contacts)
    removed: Set[str] = frozenset()

    @property
    def present(self) -> tuple[Member, ...]:
        """The present nodes, in the order of their ids."""
        return tuple(m for _, m in sorted(self.members.items()) if m.state is State.PRESENT)

    def apply(self, event: Event, now: float) -> Membership:
        """Return the membership after an event."""
        match event:
            case Hinted(target, typed, source):
                after = self if self._is_own(target) else self._with(self.contacts.hinted(target, typed, now, source))
            case Announced(target):
                after = self if self._is_own(target) else self._with(self.contacts.announced(target, now))
            case Sent(target):
                after = self._with(self.contacts.sent(target, now))
            case Answered():
                after = self._answered(event, now)
            case Failed(target, failure, is_refused):
                after = self._with(self.contacts.failed(target, failure))
                if is_refused and self.contacts.is_doubtful(target):
                    after = after._gone(self.contacts.node_at(target))
            case Gone(node_id):
                after = self._gone(node_id)
            case Greeted(info, at):
                after = self._greeted(info, at, now)
            case Measured(node_id, link) if node_id in self.members:
                after = self._with_member(replace(self.members[node_id], link=link))
            case Left(node_id) if node_id in self.members and node_id not in self.removed:
                member = replace(self.members[node_id], heard_at=now, answered_at=None, greeted_at=None)
                after = self._with_member(replace(member, state=State.LEFT))
            case Removed(node_ids):
                after = replace(self, members=_without(self.members, node_ids), removed=self.removed | node_ids)
            case Moved(addresses):
                own = replace(self.own, addresses=addresses, revision=self.own.revision + 1)
                after = replace(self, own=own, contacts=self.contacts.all_at_once(now))
            case _:
                after = self
        return after._settled(now)

    def whom_to_greet(self, now: float, room: int = MAX_DIALS) -> tuple[Target, ...]:
        """Return the targets to greet now, at most `room` unproven ones; the caller applies `Sent` for each."""
        return self.contacts.due({member.info.node_id for member in self.present}, now, room)

    def refusal(self, info: NodeInfo) -> str:
        """Return the reason to send to a node that greeted and may not join, "" if it may.

        The reason is never that the node refuses this one: otherwise two nodes would refuse each other forever.
        """
        refusal = self._refusal(info)
        return refusal.reason if refusal is not None and not refusal.is_theirs else ""

    def names(self) -> Mapping[str, str]:
        """Return the shown name of each node, this one included, by id. Equal names get suffixes in the order of ids.

        So nodes that know the same nodes show the same names. A node that was removed leaves its name to others.
        """
        infos = self._infos()
        taken: set[str] = set()
        given = {info.name for info in infos.values()}
        names = {}
        for node_id, info in sorted(infos.items(), key=lambda entry: (entry[0] in self.removed, entry[0])):
            name, nth = info.name, 1
            while name in taken or (nth > 1 and name in given):
                nth += 1
                name = f"{info.name}-{nth}"
            taken.add(name)
            names[node_id] = name
        return names

    def renamed(self) -> Mapping[str, str]:
        """Return the entries of `names` that differ from the node's own name."""
        infos = self._infos()
        names = ((node_id, name) for node_id, name in self.names().items() if node_id not in self.removed)
        return {node_id: name for node_id, name in names if name != infos[node_id].name}

    def _infos(self) -> Mapping[str, NodeInfo]:
        return {self.own.node_id: self.own} | {node_id: member.info for node_id, member in self.members.items()}

    def _is_own(self, target: Target) -> bool:
        return set(target.addresses) <= set(self.own.addresses)

    def _with(self, contacts: Contacts) -> Membership:
        return replace(self, contacts=contacts)

    def _gone(self, node_id: str) -> Membership:
        """Forget that a present node was heard."""
        member = self.members.get(node_id)
        if member is None or member.state is not State.PRESENT:
            return self
        return self._with_member(replace(member, answered_at=None, greeted_at=None))

    def _answered(self, event: Answered, now: float) -> Membership:
        info = event.info
        if _is_same_start(info, self.own):  # this node greeted itself, at an address that other hosts may have too
            return self._with(self.contacts.without(event.target))
        refusal = None
        if reason := self._objection(info, now):
            refusal = Refusal(info, reason, now)
        elif event.refusal:
            reason = f"{info.name} ({info.addresses[0]}) refuses this node: {event.refusal}"
            refusal = Refusal(info, reason, now, is_theirs=True)
        # Without an id, so that a refused node is still greeted, and not taken for an address of the member with its id
        contacts = self.contacts.answered(event.target, "" if refusal else info.node_id, now)
        after = self._with(contacts)
        if refusal is not None:
            return after._refusing(refusal)
        if self._has_left(info, now):
            return after
        member = replace(after._member(info, now), answered_at=now, rtt_s=event.rtt_s)
        refused = {node_id: refusal for node_id, refusal in self.refused.items() if not _ends(refusal, info)}
        return replace(after._with_member(member), refused=refused)

    def _greeted(self, info: NodeInfo, at: str, now: float) -> Membership:
        if _is_same_start(info, self.own) or self._has_left(info, now):
            return self
        if info.node_id in self.removed:  # it is not greeted any more
            return self._refusing(Refusal(info, self._objection(info, now), now))
        after = self._with(self._ways_to(info, at, now))
        if reason := self._objection(info, now):
            return after._refusing(Refusal(info, reason, now))
        if refusal := self._refusal(info):  # ends only when the node answers
            return after._refusing(replace(refusal, info=info, at=now))
        return after._with_member(replace(after._member(info, now), greeted_at=now))

    def _has_left(self, info: NodeInfo, now: float) -> bool:
        """Whether a node left just now and was not restarted: it speaks until its process has ended."""
        member = self.members.get(info.node_id)
        if member is None or member.state is not State.LEFT or not _is_same_start(member.info, info):
            return False
        return now - member.heard_at <= TIMEOUT_S and member.answered_at is None and member.greeted_at is None

    def _ways_to(self, info: NodeInfo, at: str, now: float) -> Contacts:
        """Return the contacts plus those of a node that greeted: its own addresses, and the source of the greeting."""
        ways = [info.addresses, (at,)] if at and at not in info.addresses else [info.addresses]
        member = self.members.get(info.node_id)
        contacts = self.contacts
        for target in (Target(way, info.node_id) for way in ways):
            if member is None or member.state is not State.PRESENT:
                contacts = contacts.greeting_us(target, now)
            elif (info.incarnation, info.revision) > (member.info.incarnation, member.info.revision):
                contacts = contacts.announced(target, now, info.node_id)
            else:
                contacts = contacts.hinted(target, kept=False, now=now, source=info.node_id)
        return contacts

    def _refusal(self, info: NodeInfo) -> Refusal | None:
        refusal = self.refused.get(info.node_id)
        return refusal if refusal is not None and _is_same_start(refusal.info, info) else None

    def _objection(self, info: NodeInfo, now: float) -> str:
        """Return why a node may not join, with the cure, or ""."""
        if info.node_id == self.own.node_id:
            return _copied_folder(info, self.own)
        if info.node_id in self.removed:
            return f"{info.name} ({info.addresses[0]}) was removed from this cluster: {JOIN_ANEW}"
        if info.major_version != self.own.major_version:
            return (
                f"{info.name} ({info.addresses[0]}) runs moe-cluster {info.version}, this node {self.own.version}: "
                "the first number must be the same; update the older one"
            )
        member = self.members.get(info.node_id)
        if member is None and len(self.members) >= MAX_MEMBERS:
            return f"{info.name} ({info.addresses[0]}) is one too many: a cluster has at most {MAX_MEMBERS + 1} nodes"
        if member is not None and not _is_same_start(member.info, info):
            is_alive = member.state is State.PRESENT and now - member.heard_at <= ALIVE_S
            if is_alive and member.info.addresses[0] != info.addresses[0]:
                return _copied_folder(info, member.info)
        return ""

    def _member(self, info: NodeInfo, now: float) -> Member:
        """Return the node's member, a new one if needed. Answers from before a restart of the node do not count."""
        member = self.members.get(info.node_id)
        if member is None:
            return Member(info, heard_at=now)
        if not _is_same_start(member.info, info):
            state = State.LOST if member.state is State.LEFT else member.state
            member = replace(member, state=state, answered_at=None, greeted_at=None, rtt_s=None, link=None)
        elif info.revision < member.info.revision:  # this message was delayed; a newer one has arrived before
            info = member.info
        return replace(member, info=info, heard_at=now)

    def _with_member(self, member: Member) -> Membership:
        return replace(self, members={**self.members, member.info.node_id: member})

    def _refusing(self, refusal: Refusal) -> Membership:
        info = refusal.info
        members = {node_id: m for node_id, m in self.members.items() if not _is_same_start(m.info, info)}
        refused = {**self.refused, info.node_id: refusal}
        if len(refused) > MAX_MEMBERS:
            del refused[min(refused, key=lambda node_id: refused[node_id].at)]
        return replace(self, members=members, refused=refused)

    def _settled(self, now: float) -> Membership:
        """Update every member's state to `now`, and forget old members, refusals and contacts."""
        members = {
            node_id: replace(member, state=state) if (state := _state(member, now)) is not member.state else member
            for node_id, member in self.members.items()
            if now - member.heard_at <= FORGET_S
        }
        refused = {node_id: r for node_id, r in self.refused.items() if now - r.at <= FORGET_REFUSED_S}
        return replace(self, members=members, refused=refused, contacts=self.contacts.without_silent(now))


class Happening(StrEnum):
    """The kind of a change that people are told about."""

    JOINED = "joined"
    LOST = "lost"
    BACK = "back"
    LEFT = "left"
    REMOVED = "removed"
    REFUSED = "refused"
    RENAMED = "renamed"
    UNREACHABLE = "unreachable"
    MOVED = "moved"


@dataclass(frozen=True, slots=True)
class Change:
    """A change to tell people about: `name` is a node's shown name or an address, `reason` optional details."""

    happening: Happening
    name: str
    reason: str = ""


def changes(before: Membership, after: Membership) -> list[Change]:
    """Return the changes between two memberships that people are told about."""
    found = []
    names = after.names()
    if before.own.addresses != after.own.addresses:
        is_alone = all(map(is_loopback, after.own.addresses))
        where = f"this node is at {', '.join(after.own.addresses)} now"
        reason = "this machine has no network now: other nodes cannot reach it" if is_alone else where
        found.append(Change(Happening.MOVED, names[after.own.node_id], reason))
    for node_id, member in after.members.items():
        previous = before.members.get(node_id)
        happening = _happening(State.CONNECTING if previous is None else previous.state, member.state)
        if happening is not None:
            found.append(Change(happening, names[node_id]))
    renamed = before.renamed()
    for node_id, name in after.renamed().items():
        if renamed.get(node_id) != name:
            found.append(Change(Happening.RENAMED, name, f"two nodes have one name: {node_id} is shown as {name}"))
    for node_id, refusal in after.refused.items():
        known = before.refused.get(node_id)
        if known is None or known.reason != refusal.reason:
            found.append(Change(Happening.REFUSED, refusal.info.name, refusal.reason))
    for target, contact in after.contacts.by_target.items():
        last = before.contacts.by_target.get(target)
        if contact.kept and contact.failure and not contact.answered and (last is None or not last.failure):
            found.append(Change(Happening.UNREACHABLE, target.addresses[0], contact.failure))
    return found


def _happening(before: State, after: State) -> Happening | None:
    if after is State.REMOVED:
        return Happening.REMOVED if before is not State.REMOVED else None
    if State.PRESENT not in (before, after) or before is after:
        return None
    if after is State.PRESENT:
        return Happening.JOINED if before is State.CONNECTING else Happening.BACK
    return Happening.LEFT if after is State.LEFT else Happening.LOST


def _without(members: Mapping[str, Member], removed: Set[str]) -> Mapping[str, Member]:
    """Return the members; those that are removed now are shown until they are forgotten."""
    return {i: replace(m, state=State.REMOVED) if i in removed else m for i, m in members.items()}


def _state(member: Member, now: float) -> State:
    if member.state is State.REMOVED:
        return State.REMOVED
    if member.is_here(now):
        return State.PRESENT
    return State.LOST if member.state is State.PRESENT else member.state


def _is_same_start(one: NodeInfo, other: NodeInfo) -> bool:
    return (one.node_id, one.incarnation) == (other.node_id, other.incarnation)


def _ends(refusal: Refusal, accepted: NodeInfo) -> bool:
    """Whether accepting a node ends a refusal: it concerns this node, or this node before its restart."""
    same_place = refusal.info.addresses[0] == accepted.addresses[0]
    return refusal.info.node_id == accepted.node_id and (_is_same_start(refusal.info, accepted) or same_place)


def _copied_folder(info: NodeInfo, first: NodeInfo) -> str:
    return (
        f"{info.name} ({info.addresses[0]}) has the node id {info.node_id} of {first.name} ({first.addresses[0]}), as "
        "after copying its folder: on one of the two delete `identity` in MOE_CLUSTER_HOME, and join it again"
    )

"""NodeState: what a daemon knows, changed in one place: membership, what each node holds, and what is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Set

from cluster.daemon.belief import Said, believed
from cluster.errors import NodeLostError
from cluster.membership import address
from cluster.membership.ballot import Ballot
from cluster.membership.greeting import Greeting
from cluster.membership.losses import Losses
from cluster.membership.membership import (
    NO_LINK,
    Change,
    Event,
    LinkSpeed,
    Member,
    Membership,
    Removed,
    State,
    changes,
)
from cluster.membership.node_info import NodeInfo
from cluster.trust import Removal, RemovedNodes
from cluster.wire import node_pb2 as pb

NO_LINK_S = 2.0
"""How long another node must have said that it lost a node before it counts: nodes see one that is back at different
times."""

MEETING_S = 10.0
"""Timeout for two nodes to learn of each other from a third one, which greets both every second."""


class NodeState:
    """The state of one daemon. `on_change` is called with changes that people are told about.

    `removed` is the list of nodes that were removed from the cluster; an insecure one has none. `keeps_authority`: this
    node can let others in.
    """

    def __init__(self, own: NodeInfo, on_change: Callable[[Change], None], removed: RemovedNodes | None = None) -> None:
        self.removed = removed
        known = frozenset() if removed is None else frozenset(removal.node_id for removal in removed.all())
        self.membership = Membership(own, removed=known)
        self.is_removed = asyncio.Event()  # this node, from its cluster
        self.keeps_authority = False
        self.holding = pb.Holding()
        self.own_serving = pb.Serving()
        self.free_disk_bytes = 0
        self.losses = Losses()
        self.ballot = Ballot()  # changed by `voting`, which stores it
        self.is_placing = False
        self._gossip: dict[str, Greeting] = {}
        self._without_link: dict[tuple[str, str], float] = {}  # since when the first node says that it lost the other
        self._addresses: dict[str, str] = {}
        self._on_change = on_change

    @property
    def own(self) -> NodeInfo:
        """This node's info."""
        return self.membership.own

    def apply(self, event: Event) -> None:
        """Apply an event to the membership, and report the changes."""
        before, now = self.membership, time.monotonic()
        self.membership = before.apply(event, now)
        self.losses = self.losses.after(before, self.membership, now)
        for change in changes(before, self.membership):
            self._on_change(change)

    def hear(self, node_id: str, greeting: Greeting) -> None:
        """Record what a member says about itself."""
        self._gossip[node_id] = greeting
        before, now = self._without_link, time.monotonic()
        lost = {(node_id, other) for other, link in greeting.links.items() if link == NO_LINK}
        self._without_link = {pair: at for pair, at in before.items() if pair[0] != node_id or pair in lost}
        self._without_link |= {pair: before.get(pair, now) for pair in lost}

    def hear_removals(self, heard: Iterable[Removal]) -> Set[str]:
        """Record which nodes were removed from the cluster; return the new ones.

        What the authority has not signed is ignored.
        """
        new = frozenset(r.node_id for r in self.removed.add(heard)) if self.removed is not None else frozenset()
        if new:
            self.apply(Removed(new))
        if self.own.node_id in new:
            self.is_removed.set()
        return new

    @property
    def removals(self) -> tuple[Removal, ...]:
        """The nodes that were removed from the cluster."""
        return () if self.removed is None else self.removed.all()

    @property
    def keepers(self) -> list[str]:
        """The ids of the present nodes that say that they can let others in."""
        others = (i for i in sorted(self.present) if i in self._gossip and self._gossip[i].keeps_authority)
        return [*([self.own.node_id] if self.keeps_authority else []), *others]

    def reached(self, node_id: str, at: str) -> None:
        """Record the address at which a node answers this one (or at which this node reaches itself)."""
        self._addresses[node_id] = at

    def reached_at(self, node_id: str) -> str:
        """Return the address recorded by `reached`, "" if there is none yet."""
        return self._addresses.get(node_id, "")

    @property
    def present(self) -> Mapping[str, Member]:
        """The other nodes that are present, by id."""
        return {i: m for i, m in self.membership.members.items() if m.state is State.PRESENT}

    @property
    def lost(self) -> list[str]:
        """The ids of nodes that were lost, and are not back."""
        return [i for i, member in self.membership.members.items() if member.state is State.LOST]

    def trusts(self, node_id: str) -> bool:
        """Whether a present node may get a part of a model without a person's word: it was not lost just now."""
        return self.losses.is_trusted(node_id, time.monotonic())

    def holding_of(self, node_id: str) -> pb.Holding:
        """Return what a node's worker holds, empty if unknown."""
        if node_id == self.own.node_id:
            return self.holding
        gossip = self._gossip.get(node_id)
        return gossip.holding if gossip and node_id in self.present else pb.Holding()

    def free_disk_of(self, node_id: str) -> int:
        """Return the free bytes of the disk where a node keeps models, 0 if unknown."""
        if node_id == self.own.node_id:
            return self.free_disk_bytes
        gossip = self._gossip.get(node_id)
        return gossip.free_disk_bytes if gossip else 0

    def links_of(self, node_id: str) -> Mapping[str, LinkSpeed]:
        """Return the links to others that a node has measured, empty if unknown; NO_LINK where it reaches no longer."""
        if node_id == self.own.node_id:
            return {i: member.link for i, member in self.present.items() if member.link is not None}
        gossip, since = self._gossip.get(node_id), time.monotonic() - NO_LINK_S
        if gossip is None or node_id not in self.present:
            return {}
        early = {other for (one, other), at in self._without_link.items() if one == node_id and at > since}
        here = {self.own.node_id, *self.present}
        return {i: link for i, link in gossip.links.items() if link != NO_LINK or (i in here and i not in early)}

    @property
    def knows_all_links(self) -> bool:
        """Whether every present node has measured its links to all others, and has said so."""
        nodes = {self.own.node_id, *self.present}
        return all(self.links_of(node_id).keys() >= nodes - {node_id} for node_id in nodes)

    @property
    def serving(self) -> tuple[str, pb.Serving]:
        """The node that has placed the cluster's model, and the model's state, ("", empty) if none; see `belief`."""
        own = self.own.node_id
        said = {own: Said(self.own_serving, self.holding, self.ballot)}
        for node_id in self.present:
            heard = self._gossip.get(node_id)
            said[node_id] = Said(heard.serving, heard.holding, heard.ballot) if heard else Said()
        return believed(own, said)

    def is_answering(self) -> bool:
        """Whether the cluster answers requests, as last heard."""
        coordinator, _ = self.serving
        return self.holding_of(coordinator).stats.active_requests > 0

    def ballot_of(self, node_id: str) -> Ballot:
        """Return a node's ballot as last heard."""
        if node_id == self.own.node_id:
            return self.ballot
        gossip = self._gossip.get(node_id)
        return gossip.ballot if gossip else Ballot()

    def target(self, node_id: str, port: int | None = None) -> str:
        """Return the address of a node's daemon, or of another port of the node. Raises NodeLostError if unknown."""
        at = self.reached_at(node_id)
        if not at:
            raise NodeLostError(
                f"node {self.name(node_id)} has not answered node {self.name(self.own.node_id)} yet", node_id=node_id
            )
        host, node_port = address.split(at)
        return address.join(host, port or node_port)

    async def meet(self, node_id: str, port: int | None = None) -> str:
        """Return `target` as soon as it is known, because a node known to others will soon be known here.

        Raises:
            NodeLostError: it is still unknown after MEETING_S.
        """
        end = time.monotonic() + MEETING_S
        while True:
            try:
                return self.target(node_id, port)
            except NodeLostError:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(MEETING_S / 100)

    def name(self, node_id: str) -> str:
        """Return a node's shown name."""
        return self.membership.names().get(node_id, node_id)

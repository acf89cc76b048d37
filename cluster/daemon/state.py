"""NodeState: what a daemon knows, changed from one place: membership, what each node holds, what is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cluster.errors import NodeLostError
from cluster.membership import address
from cluster.membership.membership import Change, Event, LinkSpeed, Member, Membership, State, changes
from cluster.membership.node_info import NodeInfo
from cluster.wire import node_pb2 as pb

MEETING_S = 10.0
"""For two nodes that a third one knows to know each other: it tells each of the other once a second."""


@dataclass(frozen=True, slots=True)
class Gossip:
    """What a node said last of its worker, of the model that it has placed, and of its links to others."""

    holding: pb.Holding
    serving: pb.Serving
    links: Mapping[str, LinkSpeed]


class NodeState:
    """`on_change` hears what people should hear of other nodes. Times are monotonic seconds."""

    def __init__(self, own: NodeInfo, on_change: Callable[[Change], None]) -> None:
        self.membership = Membership(own)
        self.holding = pb.Holding()
        self.own_serving = pb.Serving()
        self._gossip: dict[str, Gossip] = {}
        self._addresses: dict[str, str] = {}
        self._on_change = on_change

    @property
    def own(self) -> NodeInfo:
        """This node."""
        return self.membership.own

    def apply(self, event: Event) -> None:
        """Fold an event into the membership, and tell what came of it."""
        before = self.membership
        self.membership = before.apply(event, time.monotonic())
        for change in changes(before, self.membership):
            self._on_change(change)

    def hear(self, node_id: str, gossip: Gossip) -> None:
        """Note what a node says of itself."""
        self._gossip[node_id] = gossip

    def reached(self, node_id: str, at: str) -> None:
        """Note the address at which a node answers this one, or at which this one reaches itself."""
        self._addresses[node_id] = at

    def reached_at(self, node_id: str) -> str:
        """Return that address, "" if there is none yet."""
        return self._addresses.get(node_id, "")

    @property
    def present(self) -> Mapping[str, Member]:
        """The other nodes that count."""
        return {i: m for i, m in self.membership.members.items() if m.state is State.PRESENT}

    def holding_of(self, node_id: str) -> pb.Holding:
        """Return what a node's worker holds, as far as is known."""
        if node_id == self.own.node_id:
            return self.holding
        gossip = self._gossip.get(node_id)
        return gossip.holding if gossip and node_id in self.present else pb.Holding()

    def links_of(self, node_id: str) -> Mapping[str, LinkSpeed]:
        """Return the links to others that a node has measured, as far as is known."""
        if node_id == self.own.node_id:
            return {i: member.link for i, member in self.present.items() if member.link is not None}
        gossip = self._gossip.get(node_id)
        return gossip.links if gossip and node_id in self.present else {}

    @property
    def serving(self) -> tuple[str, pb.Serving]:
        """Return which node has placed a model, and how that stands; of several the newest. ("", empty) if none."""
        offers = {self.own.node_id: self.own_serving}
        offers |= {i: self._gossip[i].serving for i in self.present if i in self._gossip}
        node_id, serving = max(offers.items(), key=lambda offer: (offer[1].epoch, offer[0]))
        return (node_id, serving) if serving.epoch else ("", pb.Serving())

    @property
    def newest_epoch(self) -> int:
        """The highest number that any placement was given."""
        return max(self.own_serving.epoch, self.holding.epoch, *(g.serving.epoch for g in self._gossip.values()), 0)

    def target(self, node_id: str, port: int | None = None) -> str:
        """Return the address of a node's daemon, or of another port there. Raises NodeLostError."""
        at = self.reached_at(node_id)
        if not at:
            raise NodeLostError(f"node {self.name(node_id)} has not answered node {self.name(self.own.node_id)} yet")
        host, node_port = address.split(at)
        return address.join(host, port or node_port)

    async def meet(self, node_id: str, port: int | None = None) -> str:
        """Return what `target` does, once there is one: a node that others know is about to meet this one."""
        end = time.monotonic() + MEETING_S
        while True:
            try:
                return self.target(node_id, port)
            except NodeLostError:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(MEETING_S / 100)

    def name(self, node_id: str) -> str:
        """Return what to call a node."""
        return self.membership.names().get(node_id, node_id)

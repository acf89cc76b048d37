"""Losses: which nodes were lost and came back lately. Decisions made without a person do not use these for a while.

A node that comes and goes would cost a load each time. Each further loss doubles how long it must stay first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.membership.membership import Membership, State

TRUST_S = 30.0
"""How long a node must stay after its first loss before it gets a part without a person's word."""

LONGEST_TRUST_S = 1800.0

REMEMBERED_S = 3600.0
"""How long a loss counts."""


@dataclass(frozen=True, slots=True)
class _Node:
    lost_at: tuple[float, ...] = ()
    back_at: float | None = None


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of nodes, by node id, in monotonic seconds. Immutable."""

    nodes: Mapping[str, _Node] = field(default_factory=dict)

    def after(self, before: Membership, after: Membership, now: float) -> Losses:
        """Return the losses after the membership has changed."""
        losses = self
        for node_id, member in after.members.items():
            known = before.members.get(node_id)
            if known is None or known.state is member.state:
                continue
            if known.state is State.PRESENT and member.state is State.LOST:
                losses = losses.lost(node_id, now)
            elif member.state is State.PRESENT:
                losses = losses.back(node_id, now)
        return losses

    def lost(self, node_id: str, now: float) -> Losses:
        """Return the losses with one more."""
        known = self.nodes.get(node_id, _Node())
        times = (*(at for at in known.lost_at if at > now - REMEMBERED_S), now)
        recent = {i: node for i, node in self.nodes.items() if node.lost_at[-1] > now - REMEMBERED_S}
        return Losses({**recent, node_id: _Node(times)})

    def back(self, node_id: str, now: float) -> Losses:
        """Return the losses after a node has come back."""
        known = self.nodes.get(node_id)
        return self if known is None else Losses({**self.nodes, node_id: replace(known, back_at=now)})

    def trusted_at(self, node_id: str, now: float) -> float:
        """Return when a node that is here may get a part; a time that has passed if it may already."""
        known = self.nodes.get(node_id)
        recent = [] if known is None else [at for at in known.lost_at if at > now - REMEMBERED_S]
        if known is None or not recent:
            return now
        since = recent[-1] if known.back_at is None else known.back_at
        return since + min(LONGEST_TRUST_S, TRUST_S * 2.0 ** (len(recent) - 1))

    def is_trusted(self, node_id: str, now: float) -> bool:
        """Whether a node that is here may get a part without a person's word."""
        return self.trusted_at(node_id, now) <= now

    def newest(self) -> float | None:
        """Return the time of the last loss of any node; None if there was none."""
        return max((node.lost_at[-1] for node in self.nodes.values()), default=None)

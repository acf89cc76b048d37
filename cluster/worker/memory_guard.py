"""MemoryGuard: refuses requests when the memory of a node runs short, and ends the newest answer when it runs out.

The plan counts weights, KV caches and temporaries. This counts what the system counts: also tokenizers, templates, and
what nobody planned. Pure: it gets what each node uses, and measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.placement.capacity import size_text
from cluster.wire import worker_pb2 as pb
from mlx_moe.errors import PressureError

LOOK_S = 1.0
"""How often a worker looks at its memory; at most so often an answer gives way, which frees memory meanwhile."""

SOFT_LIMIT = 0.85
HARD_LIMIT = 0.95
STEP = 0.05
"""Shares of a node's budget from which requests are refused, and answers give way. What the plan counts is allowed in
any case; STEP is then between the two."""

OLD_S = 10.0
"""A node that has said nothing for so long is forgotten: it is not in short supply, or not there."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The memory of a node's worker and its children. `planned_bytes` is what they take with full KV caches."""

    node: str
    used_bytes: int
    budget_bytes: int
    planned_bytes: int = 0

    @classmethod
    def from_message(cls, message: pb.MemoryUse) -> MemoryUse:
        """Read what another node sent."""
        return cls(message.node, message.used_bytes, message.budget_bytes, message.planned_bytes)

    def to_message(self) -> pb.MemoryUse:
        """Return it as a message."""
        return pb.MemoryUse(
            node=self.node,
            used_bytes=self.used_bytes,
            budget_bytes=self.budget_bytes,
            planned_bytes=self.planned_bytes,
        )

    @property
    def is_short(self) -> bool:
        """Whether new requests are refused."""
        return self.budget_bytes > 0 and self.used_bytes > self._soft_bytes

    @property
    def is_out(self) -> bool:
        """Whether the newest answer gives way."""
        hard_bytes = max(HARD_LIMIT * self.budget_bytes, self._soft_bytes + STEP * self.budget_bytes)
        return self.budget_bytes > 0 and self.used_bytes > hard_bytes

    def __str__(self) -> str:
        """Say who has how much."""
        return (
            f"node {self.node} uses {size_text(self.used_bytes)} of the {size_text(self.budget_bytes)} that it offers"
        )

    @property
    def _soft_bytes(self) -> float:
        return max(SOFT_LIMIT * self.budget_bytes, self.planned_bytes)


class MemoryGuard:
    """What the nodes of a placement use. `now_s` is monotonic."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[float, MemoryUse]] = {}
        self._gave_way_s = -LOOK_S

    def note(self, use: MemoryUse, now_s: float) -> None:
        """Note what a node uses now."""
        self._nodes[use.node] = (now_s, use)

    def require_room(self, now_s: float) -> None:
        """Raise PressureError if a node has too little memory for another request."""
        for use in self._uses(now_s):
            if use.is_short:
                raise PressureError(
                    f"{use}: it takes no new requests until that is less. Try again when an answer has ended, or give "
                    f"the node more with moe-cluster up --memory"
                )

    def is_short(self, now_s: float) -> bool:
        """Whether a node has too little memory for another request."""
        return any(use.is_short for use in self._uses(now_s))

    def gives_way(self, now_s: float, tokens: int) -> PressureError | None:
        """Return the error that ends the newest answer, which has so many tokens; None if it may go on."""
        out = next((use for use in self._uses(now_s) if use.is_out), None)
        if out is None or now_s - self._gave_way_s < LOOK_S:
            return None
        self._gave_way_s = now_s
        return PressureError(
            f"{out}: the newest answer was given up after {tokens} tokens. Try again when another one has ended, or "
            f"ask for fewer tokens"
        )

    def _uses(self, now_s: float) -> list[MemoryUse]:
        return [use for noted_s, use in self._nodes.values() if now_s - noted_s < OLD_S]

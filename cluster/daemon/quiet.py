"""Quiet: when a model may be moved to a better placement, or loaded again, without a person's word.

Pure; times are monotonic.
"""

from __future__ import annotations

from collections.abc import Hashable, Set
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class QuietRule:
    """Nobody was answered for `quiet_s`, no node was lost for `calm_s`, nothing was moved for `every_s`."""

    quiet_s: float = 30.0
    calm_s: float = 60.0
    every_s: float = 300.0


DEFAULT_RULE = QuietRule()

RETRY_S = 30.0
"""Time between two tries to move a model, or to load it again, where the first one failed."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """What was seen of a served model that this node coordinates.

    `activity` is whatever changes while it answers, `situation` whatever a placement depends on: a plan is made only if
    that differs from when the last one was made, or that one failed. Immutable.
    """

    rule: QuietRule = DEFAULT_RULE
    activity: Hashable = None
    active_at: float | None = None  # None: the model is not ready
    looked_at: Hashable = None
    moved_at: float | None = None
    failed_at: float | None = None

    def see(self, now: float, *, is_ready: bool, is_answering: bool, activity: Hashable) -> Quiet:
        """Return it after a look at the model."""
        if not is_ready:
            return replace(self, active_at=None)
        is_active = is_answering or activity != self.activity or self.active_at is None
        return replace(self, activity=activity, active_at=now if is_active else self.active_at)

    def is_due(self, now: float, situation: Hashable, lost_at: float | None) -> bool:
        """Whether to make a plan now; `lost_at` is when a node was lost last."""
        return (
            self.active_at is not None
            and now - self.active_at >= self.rule.quiet_s
            and (lost_at is None or now - lost_at >= self.rule.calm_s)
            and (self.moved_at is None or now - self.moved_at >= self.rule.every_s)
            and (situation != self.looked_at or (self.failed_at is not None and now - self.failed_at >= RETRY_S))
        )

    def looked(self, situation: Hashable) -> Quiet:
        """Return it after a plan was made for a situation."""
        return replace(self, looked_at=situation, failed_at=None)

    def moved(self, now: float) -> Quiet:
        """Return it after the model was moved."""
        return replace(self, moved_at=now)

    def failed(self, now: float) -> Quiet:
        """Return it after a plan could not be made or followed: to be tried again in the same situation."""
        return replace(self, failed_at=now)


@dataclass(frozen=True, slots=True)
class Comeback:
    """When a model that ended because nodes were lost is loaded again: when a node is here that was not. Immutable.

    `here` are the nodes at the last look before it ended. `known` are those that were here ever since then, or since it
    was too large for them; None if it has not ended. A node that was restarted is another one.
    """

    here: frozenset[Hashable] = frozenset()
    known: frozenset[Hashable] | None = None
    tried_at: float | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether the model has ended, and was not loaded again since."""
        return self.known is not None

    def see(self, nodes: Set[Hashable]) -> Comeback:
        """Return it after a look at the nodes that are here, while the model has ended."""
        return replace(self, known=(self.here if self.known is None else self.known) & nodes)

    def is_due(self, now: float, nodes: Set[Hashable]) -> bool:
        """Whether to load the model again."""
        is_early = self.tried_at is not None and now - self.tried_at < RETRY_S
        return self.known is not None and not is_early and bool(nodes - self.known)

    def tried(self, now: float) -> Comeback:
        """Return it after a try, which is repeated if it fails."""
        return replace(self, tried_at=now)

    def refused(self, nodes: Set[Hashable]) -> Comeback:
        """Return it after these nodes were too small."""
        return replace(self, known=frozenset(nodes))

    def over(self, nodes: Set[Hashable]) -> Comeback:
        """Return it after a look at the nodes, while the model has not ended or is not wanted any more."""
        return replace(self, known=None, here=frozenset(nodes))

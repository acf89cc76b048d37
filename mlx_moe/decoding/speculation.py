"""Speculation: which drafts of one answer are in flight, and whether one more is worth its frame.

Pure bookkeeping over token ids: knows neither MLX nor links. A draft's depth is how many positions it lies ahead of the
last one whose hidden state had come back when it was made.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass, field

from mlx_moe.decoding.request import GenerationStats

PRIOR = 0.6
"""Share of right drafts that is expected of a depth before any was seen."""

WEIGHT = 1 / 8
"""Of the newest draft in the average. A drafter that is never right is given up after 6 to 15 drafts."""

PROBE_EVERY = 32
"""Tokens after which a draft is made although it is not expected to be worth it: the text may have changed."""


class Acceptance:
    """How often the drafts of each depth were right of late, given that all before them were. All answers share one.

    Attributes:
        compared: drafts that the model has decided on.
        accepted: those that were right.
    """

    def __init__(self) -> None:
        self.compared = 0
        self.accepted = 0
        self._rates: defaultdict[int, float] = defaultdict(lambda: PRIOR)

    def rate(self, depth: int) -> float:
        """Return the share of right drafts to expect."""
        return self._rates[depth]

    def learn(self, depth: int, *, right: bool) -> None:
        """Take in how a draft turned out."""
        self.compared += 1
        self.accepted += right
        self._rates[depth] += WEIGHT * (right - self._rates[depth])


@dataclass(frozen=True, slots=True)
class _Draft:
    token_id: int
    depth: int
    is_probe: bool  # it was not expected to be worth its frame


@dataclass(slots=True)
class Speculation:
    """The drafts of an answer that are in flight, behind the frame of its newest token.

    `worth` is the least probability that a draft, and all before it, must have of being right; see `worth_of`. What
    becomes of the drafts is counted in `stats`.
    """

    acceptance: Acceptance
    worth: float
    stats: GenerationStats
    _drafts: deque[_Draft] = field(default_factory=deque)
    _since_probe: int = 0

    @property
    def token_ids(self) -> list[int]:
        """The drafts in flight, in order of their positions."""
        return [draft.token_id for draft in self._drafts]

    def wants_draft(self, frames: int) -> bool:
        """Say whether to draft one more, where `frames` of this answer may be in flight."""
        if 1 + len(self._drafts) >= frames:
            return False
        return self._expected() >= self.worth or self._since_probe >= PROBE_EVERY

    def add(self, token_id: int) -> None:
        """Note that a draft is in flight behind the others."""
        is_probe = self._expected() < self.worth
        if is_probe:
            self._since_probe = 0
        self._drafts.append(_Draft(token_id, len(self._drafts) + 1, is_probe))
        self.stats.drafted += 1

    def settle(self, token_id: int) -> bool:
        """Compare the token that follows the first frame with the draft at its place, if there is one.

        Returns:
            Whether its frame is in flight. If not, none is any more: the drafts after a wrong one are void.
        """
        self._since_probe += 1
        if not self._drafts:
            return False
        draft = self._drafts.popleft()
        right = draft.token_id == token_id
        self.acceptance.learn(draft.depth, right=right)
        self._count(draft.depth, right)
        if right and draft.is_probe:
            self._since_probe = PROBE_EVERY  # the next one comes at once: right drafts come in runs
        if not right:
            self._drafts.clear()
        return right

    def drop(self) -> None:
        """Forget the drafts in flight: what they follow is run again."""
        self._drafts.clear()

    def _expected(self) -> float:
        """Return how probable it is that one more draft, and so all before it, are right."""
        rate = self.acceptance.rate
        return math.prod(rate(draft.depth) for draft in self._drafts) * rate(len(self._drafts) + 1)

    def _count(self, depth: int, right: bool) -> None:
        self.stats.compared_by_depth = _counted(self.stats.compared_by_depth, depth, 1)
        self.stats.accepted_by_depth = _counted(self.stats.accepted_by_depth, depth, right)
        self.stats.accepted += right


def worth_of(n_stages: int) -> float:
    """Return the least probability of being right that is worth a frame, in a pipeline of `n_stages`.

    In units of a stage's time: a right draft saves all stages but one, less the drafting, 1/3 (4 ms of head and MTP
    layer against 12 of a stage, for DeepSeek-V3 on eight M4 Pro). A wrong one keeps the coordinator's node from the
    right frame for half of its own time there, 4/3 / 2. Where both are equal is p (n - 4/3) = (1 - p) 2/3.
    """
    return 2 / (3 * n_stages - 2)


def _counted(counts: tuple[int, ...], depth: int, more: int) -> tuple[int, ...]:
    """Return counts by depth, from 1, with `more` of one."""
    longer = [*counts, *[0] * (depth - len(counts))]
    longer[depth - 1] += more
    return tuple(longer)

"""Speculation: the drafts of one answer in flight, and whether one more is worth its frame.

Pure bookkeeping over token ids: knows nothing about MLX and links. A draft's depth is its distance from the last
position whose hidden state had returned when the draft was made.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass, field

from mlx_moe.decoding.request import GenerationStats

PRIOR = 0.6
"""Expected share of right drafts at a depth before any was observed."""

WEIGHT = 1 / 8
"""Weight of the newest draft in the average. A drafter that is never right is disabled after 6 to 15 drafts."""

PROBE_EVERY = 32
"""Tokens after which a draft is tried although it is not expected to be worth it: the text may have changed."""


class Acceptance:
    """Recent share of right drafts at each depth, given that all before them were right. All answers share one.

    Attributes:
        compared: number of drafts that were compared with the model's token.
        accepted: number of right ones among them.
    """

    def __init__(self) -> None:
        self.compared = 0
        self.accepted = 0
        self._rates: defaultdict[int, float] = defaultdict(lambda: PRIOR)

    def rate(self, depth: int) -> float:
        """Return the expected share of right drafts."""
        return self._rates[depth]

    def learn(self, depth: int, *, right: bool) -> None:
        """Record whether a draft was right."""
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
    """The drafts of an answer that are in flight behind the frame of its newest token.

    `worth` is the smallest probability of a draft and all before it being right at which it is made; see `worth_of`.
    `stats` counts drafts and accepted ones.
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
        """Return whether to make one more draft if `frames` frames of this answer may be in flight."""
        if 1 + len(self._drafts) >= frames:
            return False
        return self._expected() >= self.worth or self._since_probe >= PROBE_EVERY

    def add(self, token_id: int) -> None:
        """Record that a draft is in flight behind the others."""
        is_probe = self._expected() < self.worth
        if is_probe:
            self._since_probe = 0
        self._drafts.append(_Draft(token_id, len(self._drafts) + 1, is_probe))
        self.stats.drafted += 1

    def settle(self, token_id: int) -> bool:
        """Compare the token after the first frame with the draft at its position, if there is one.

        Returns:
            Whether the token's frame is in flight. If not, all drafts are void, because one before them was wrong.
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
        """Drop the drafts in flight, because the frame before them is computed again."""
        self._drafts.clear()

    def _expected(self) -> float:
        """Return the probability that one more draft and all before it are right."""
        rate = self.acceptance.rate
        return math.prod(rate(draft.depth) for draft in self._drafts) * rate(len(self._drafts) + 1)

    def _count(self, depth: int, right: bool) -> None:
        self.stats.compared_by_depth = _counted(self.stats.compared_by_depth, depth, 1)
        self.stats.accepted_by_depth = _counted(self.stats.accepted_by_depth, depth, right)
        self.stats.accepted += right


def worth_of(n_stages: int) -> float:
    """Return the smallest probability of being right at which a draft is worth its frame, for `n_stages` stages.

    In units of a stage's time, a right draft saves all stages but one, less 1/3 for drafting (4 ms of lm_head and MTP
    layer, 12 ms of a stage, for DeepSeek-V3 on eight M4 Pro). A wrong one delays the right frame on the coordinator's
    node by half of its own time there, 4/3 / 2. Both are equal for p (n - 4/3) = (1 - p) 2/3.
    """
    return 2 / (3 * n_stages - 2)


def _counted(counts: tuple[int, ...], depth: int, more: int) -> tuple[int, ...]:
    """Return counts by depth, which starts at 1, after adding `more` to one."""
    longer = [*counts, *[0] * (depth - len(counts))]
    longer[depth - 1] += more
    return tuple(longer)

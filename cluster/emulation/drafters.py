"""Drafters of an emulation: right at a stated rate, always wrong, or the demo model's MTP layer."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import mlx.core as mx

from cluster.emulation.stage import Clock
from mlx_moe.decoding.drafting import MTPDrafter
from mlx_moe.decoding.drafting.drafter import Choose
from mlx_moe.model import LocalModel
from mlx_moe.pipeline.frame import Frame, FrameKind


class StatedDrafter:
    """Drafts the script's token with a stated probability by depth; the last value also holds for greater depths."""

    observer = None

    def __init__(
        self, script: tuple[int, ...], acceptance: tuple[float, ...], seed: int, seconds: float, clock: Clock
    ) -> None:
        self._script = script
        self._acceptance = acceptance
        self._random = random.Random(seed)
        self._seconds = seconds
        self._clock = clock

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int:  # noqa: ARG002
        """See Drafter."""
        self._clock.work(self._seconds)
        right = self._script[(len(token_ids) + len(in_flight)) % len(self._script)]
        depth = min(len(in_flight), len(self._acceptance))
        return right if self._random.random() < self._acceptance[depth - 1] else right ^ 1

    def rewind(self, position: int) -> None:
        """See Drafter. It keeps nothing."""

    def fork(self, positions: int) -> StatedDrafter:  # noqa: ARG002
        """See Drafter."""
        return self


class WrongDrafter:
    """Drafts a token that no answer contains, without delay."""

    observer = None

    def __init__(self, token_id: int) -> None:
        self._token_id = token_id

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int:  # noqa: ARG002
        """See Drafter."""
        return self._token_id

    def rewind(self, position: int) -> None:
        """See Drafter. It keeps nothing."""

    def fork(self, positions: int) -> WrongDrafter:  # noqa: ARG002
        """See Drafter."""
        return self


class ShadowDrafter:
    """Drafts by the demo model's MTP layer from the demo model's hidden states, which are computed here.

    The emulated drafting time includes this computation unless the computation is longer.
    """

    def __init__(self, demo: LocalModel, seconds: float, clock: Clock) -> None:
        assert demo.mtp is not None  # the embedded checkpoint has one
        self._demo = demo
        self._seconds = seconds
        self._clock = clock
        self._inner = MTPDrafter(demo.mtp)
        self._session = demo.new_session()
        self._known = 0
        self._late_s = 0.0

    @property
    def observer(self) -> ShadowDrafter:
        """See Drafter."""
        return self

    def observe(self, hidden_states: mx.array, token_ids: Sequence[int]) -> None:  # noqa: ARG002
        """See Observer. Ignores the emulated hidden states; computes the demo model's."""
        started = time.monotonic()
        new = token_ids[self._known :]
        embedded = self._demo.head.embed(mx.array(list(new)))
        frame = Frame(self._session.id, self._known, embedded, FrameKind.DECODE)
        shadow = self._demo.stage.run(frame).hidden_states
        self._known = len(token_ids)
        self._inner.observe(shadow, token_ids)
        mx.eval(shadow)
        self._late_s += time.monotonic() - started

    def catch_up(self, token_ids: Sequence[int]) -> list[mx.array]:
        """See Drafter."""
        started = time.monotonic()
        mx.eval(self._inner.catch_up(token_ids))
        self._late_s += time.monotonic() - started
        return []

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int | None:
        """See Drafter."""
        started = time.monotonic()
        token_id = self._inner.draft(token_ids, in_flight, choose)
        self._clock.work(self._seconds, started - self._late_s)
        self._late_s = 0.0
        return token_id

    def rewind(self, position: int) -> None:
        """See Drafter."""
        self._known = min(self._known, position)
        self._inner.rewind(position)

    def fork(self, positions: int) -> ShadowDrafter:  # noqa: ARG002
        """See Drafter. A fork starts with empty KV caches."""
        return ShadowDrafter(self._demo, self._seconds, self._clock)

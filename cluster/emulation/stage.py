"""EmulatedStage: takes the time of a Mac; returns hidden states of the real size that contain their position.

Shapes: L positions, D hidden_size.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np

from cluster.emulation.scenario import FLOAT_BYTES
from cluster.placement.capacity import Link
from cluster.placement.prediction import StageTiming
from mlx_moe.errors import FrameError
from mlx_moe.layers.expert_load import Counts
from mlx_moe.layers.steps import Steps, finish
from mlx_moe.pipeline.frame import Frame, FrameKind, Returned
from mlx_moe.pipeline.stage import StageCounts

DIGIT = 128
DIGITS = 3
"""The base of the digits that encode a position in a row: bfloat16 represents integers exactly up to 256."""


class Clock:
    """One emulated processor: it does one piece of work after the other, each for its stated time.

    Work that waited begins at the scheduled end of the previous work, other work begins now. So the next wait
    corrects the overshoot of one wait.
    """

    def __init__(self) -> None:
        self._free_at = 0.0

    def work(self, seconds: float, ready_at: float | None = None) -> None:
        """Wait until the end of work of `seconds` that can begin at `ready_at` (None: now)."""
        begin = max(self._free_at, time.monotonic() if ready_at is None else ready_at)
        self._free_at = begin + seconds
        remaining = self._free_at - time.monotonic()
        if remaining <= 0:
            self._free_at = max(self._free_at, time.monotonic() - MAX_LAG_S)
            return
        if remaining > SPIN_S:
            time.sleep(remaining - SPIN_S)
        while time.monotonic() < self._free_at:
            pass


SPIN_S = 0.0002
"""The last part of a wait is a busy-wait: sleeping overshoots by about this, and each stage adds its error."""

MAX_LAG_S = 0.002
"""The longest delay of this machine that is corrected; a longer one remains in the figures as an error."""


class EmulatedStage:
    """A stage of an emulated model. A frame also takes the time of `wire` (None: no hop) and `overhead_s`."""

    def __init__(
        self,
        timing: StageTiming,
        node: str,
        hidden_size: int,
        clock: Clock,
        *,
        wire: Link | None,
        overhead_s: float,
        is_last: bool,
    ) -> None:
        self.node = node
        self.counts = StageCounts()
        self._timing = timing
        self._hidden_size = hidden_size
        self._clock = clock
        self._wire = wire
        self._overhead_s = overhead_s
        self._is_last = is_last
        self._kept: dict[str, int] = {}

    def run(self, frame: Frame) -> Frame:
        """See Stage."""
        return finish(self.steps(frame))

    def steps(self, frame: Frame) -> Steps[Frame]:
        """See Stage. A chunk waits for each of its layers, a step for all of them."""
        start, length = frame.position, frame.hidden_states.shape[0]
        (returned,), arrived_s = self._receive([frame])
        if frame.kind is FrameKind.PREFILL:
            seconds = self._timing.prefill_s(start, start + length, frame.outputs) + self._overhead_s
            for _ in range(self._timing.n_layers):
                yield partial(self._clock.work, seconds / self._timing.n_layers, arrived_s)
        else:
            self._clock.work(self._timing.decode_s(start) + self._overhead_s, arrived_s)
        self.counts.add(frame)
        return returned

    def together(self, frames: Sequence[Frame]) -> Steps[list[Returned]]:
        """See Stage. All sequences are taken to have their mean number of positions."""
        yield from ()
        returned, arrived_s = self._receive(frames)
        mean = sum(frame.position for frame in frames) // len(frames)
        self._clock.work(self._timing.decode_s(mean, len(frames)) + self._overhead_s, arrived_s)
        self.counts.add(*frames)
        return [*returned]

    def _receive(self, frames: Sequence[Frame]) -> tuple[list[Frame], float]:
        """Return what frames become, and when the last of them has arrived over the emulated wire."""
        arrived_s, returned = time.monotonic(), []
        for frame in frames:
            length, end = frame.hidden_states.shape[0], frame.position + frame.hidden_states.shape[0]
            if frame.position > self._kept.get(frame.sequence_id, 0):
                raise FrameError(f"node {self.node}: a frame at position {frame.position}, but fewer are cached")
            if self._wire is not None:
                arrived_s += self._wire.seconds(length * self._hidden_size * FLOAT_BYTES)
            outputs = (frame.outputs if self._is_last else None) or length
            returned.append(replace(frame, position=end - outputs, hidden_states=self._rows(end, outputs)))
            self._kept[frame.sequence_id] = end
        return returned, arrived_s

    def expert_load(self) -> Mapping[int, Counts]:
        """See Stage. Nothing is routed."""
        return {}

    def fork(self, source_id: str, sequence_id: str, positions: int) -> None:
        """See Stage."""
        self._kept[sequence_id] = min(positions, self._kept.get(source_id, 0))

    def release(self, sequence_id: str) -> None:
        """See Stage."""
        self._kept.pop(sequence_id, None)

    def retain(self, sequence_ids: Set[str]) -> None:
        """See Stage."""
        self._kept = {name: kept for name, kept in self._kept.items() if name in sequence_ids}

    @property
    def past(self) -> None:
        """It leaves nothing."""

    @property
    def kv_bytes(self) -> int:
        """It keeps nothing."""
        return 0

    @property
    def kv_positions(self) -> int:
        """Cached positions of all sequences."""
        return sum(self._kept.values())

    def _rows(self, end: int, count: int) -> mx.array:
        """Return evaluated hidden states of the last `count` positions before `end`."""
        rows = np.zeros((count, self._hidden_size), dtype=np.float32)
        positions = np.arange(end - count, end)
        for digit in range(DIGITS):
            rows[:, digit] = positions // DIGIT**digit % DIGIT
        hidden_states = mx.array(rows).astype(mx.bfloat16)
        mx.eval(hidden_states)
        return hidden_states


def positions_of(hidden_states: mx.array) -> list[int]:
    """Return the positions of hidden states `[L, D]`."""
    digits = np.array(hidden_states[:, :DIGITS].astype(mx.float32)).astype(int)
    positions: list[int] = (digits * DIGIT ** np.arange(DIGITS)).sum(axis=-1).tolist()
    return positions

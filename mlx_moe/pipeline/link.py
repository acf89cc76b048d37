"""Link: how a coordinator's owner reaches the stages. Here in process; over the network elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mlx_moe.errors import MoeClusterError
from mlx_moe.layers.steps import Steps, Wait
from mlx_moe.pipeline.frame import Cancel, Fork, Frame, Outgoing, Refused, Release, Returned, makes_void
from mlx_moe.pipeline.stage import StageCounts


class Link(Protocol):
    """An ordered way into the first stage and out of the last."""

    @property
    def n_stages(self) -> int:
        """Stages that compute at the same time, each a frame of its own."""

    @property
    def frames_in_flight(self) -> int:
        """Prefill frames of one sequence that may be under way at a time."""

    def send(self, item: Outgoing) -> None:
        """Send something on its way, behind what was sent before."""

    def receive(self, sequence_id: str) -> list[Returned]:
        """Return what has come back of a sequence since the last time, in the order it was sent."""


class RunningStage(Protocol):
    """What links need of a stage: Stage, or one that only takes as long; see there for the verbs."""

    node: str
    counts: StageCounts

    def run(self, frame: Frame) -> Frame:
        """Return the frame after the stage's last layer."""

    def steps(self, frame: Frame) -> Steps[Frame]:
        """Run a frame; where it yields, others may compute once the wait is over."""

    def fork(self, source_id: str, sequence_id: str, positions: int) -> None:
        """Let a sequence begin as another's first positions."""

    def release(self, sequence_id: str) -> None:
        """Free what is kept of a sequence."""

    @property
    def kv_bytes(self) -> int:
        """Bytes of all KV caches."""

    @property
    def kv_positions(self) -> int:
        """Positions that all sequences keep."""


SLICE_S = 0.1
"""A chunk pauses after about so long, at the end of a layer: other answers wait no longer for it."""


@dataclass(slots=True)
class RunningFrame:
    """A frame on its way through stages of this process, and what came of it."""

    frame: Frame
    steps: Steps[Frame]
    result: Returned | None = None

    @property
    def sequence_id(self) -> str:
        """Its sequence."""
        return self.frame.sequence_id

    @property
    def position(self) -> int:
        """Its first position."""
        return self.frame.position

    def step(self) -> Wait | None:
        """Start what is next; return the Wait for it, None where `result` is there."""
        try:
            return next(self.steps)
        except StopIteration as done:
            self.result = done.value
        except MoeClusterError as error:
            self.result = Refused(self.frame.sequence_id, self.frame.serial, error)
        return None

    def advance(self, slice_s: float) -> None:
        """Compute for about `slice_s`, or to the end."""
        ends_at = time.monotonic() + slice_s
        while (wait := self.step()) is not None:
            wait()
            if time.monotonic() >= ends_at:
                return


class LocalLink:
    """Stages in this process, one behind the other. Frames carry lazy arrays: nothing is copied.

    One thread computes for all sequences. So that a long chunk does not hold up other answers, `receive` runs it for
    `slice_s` and then returns without it. That changes no bit: the frames of a sequence are computed alone.
    """

    n_stages = 1  # there is one thread
    frames_in_flight = 1

    def __init__(self, stages: Sequence[RunningStage], slice_s: float = SLICE_S) -> None:
        self.stages = tuple(stages)
        self._slice_s = slice_s
        self._sent: dict[str, deque[RunningFrame]] = {}

    def send(self, item: Outgoing) -> None:
        """See Link. A frame is run for a slice at once: the graph of a decode frame is built."""
        match item:
            case Frame():
                sent = deque(other for other in self._sent.get(item.sequence_id, ()) if not makes_void(item, other))
                self._sent[item.sequence_id] = sent
                sent.append(RunningFrame(item, self._steps(item)))
                self._advance(sent)
            case Fork():
                for stage in self.stages:
                    stage.fork(item.source_id, item.sequence_id, item.positions)
            case Cancel():
                self._cancel(item.sequence_id)
            case Release():
                self._cancel(item.sequence_id)
                for stage in self.stages:
                    stage.release(item.sequence_id)

    def receive(self, sequence_id: str) -> list[Returned]:
        """See Link. Runs the oldest frame that is not done for a slice."""
        sent = self._sent.get(sequence_id, deque())
        if sent and sent[0].result is None:
            self._advance(sent)
        returned = []
        while sent and sent[0].result is not None:
            returned.append(sent[0].result)
            sent.popleft()
        return returned

    def _cancel(self, sequence_id: str) -> None:
        for running in self._sent.pop(sequence_id, ()):
            running.steps.close()

    def _steps(self, frame: Frame) -> Steps[Frame]:
        for stage in self.stages:
            frame = yield from stage.steps(frame)
        return frame

    def _advance(self, sent: deque[RunningFrame]) -> None:
        oldest = next((running for running in sent if running.result is None), None)
        if oldest is not None:
            oldest.advance(self._slice_s)

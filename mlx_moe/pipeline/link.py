"""Link: the interface between an engine and its stages, and the one to stages in this process."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

from mlx_moe.errors import MoeClusterError
from mlx_moe.layers.expert_load import Counts
from mlx_moe.layers.steps import Steps, Wait
from mlx_moe.pipeline.frame import Batch, Cancel, Fork, Frame, Outgoing, Refused, Release, Retain, Returned, makes_void
from mlx_moe.pipeline.stage import Past, StageCounts


class Link(Protocol):
    """Sends to the first stage and receives from the last, in order."""

    @property
    def n_stages(self) -> int:
        """Number of stages that compute frames at the same time."""

    @property
    def frames_in_flight(self) -> int:
        """Number of prefill frames that one sequence may have in flight."""

    def send(self, item: Outgoing) -> None:
        """Send a message after those sent before; a Cancel may overtake them."""

    def receive(self, sequence_id: str) -> list[Returned]:
        """Return the results for a sequence since the last call, in the order of their frames."""


class RunningStage(Protocol):
    """The interface of a stage; implemented by `Stage`, where it is documented, and by emulated ones."""

    node: str
    counts: StageCounts

    def run(self, frame: Frame) -> Frame:
        """Return the frame after the stage's last layer."""

    def steps(self, frame: Frame) -> Steps[Frame]:
        """Run a frame; at each yield other frames may run once the wait is over."""

    def together(self, frames: Sequence[Frame]) -> Steps[list[Returned]]:
        """Run steps of different sequences as one batch."""

    def fork(self, source_id: str, sequence_id: str, positions: int) -> None:
        """Replace a sequence's caches by the first `positions` of another's."""

    def release(self, sequence_id: str) -> None:
        """Free a sequence's caches."""

    def expert_load(self) -> Mapping[int, Counts]:
        """Return by layer how often each expert was chosen in a sample of the frames."""

    def retain(self, sequence_ids: Set[str]) -> None:
        """Free the caches of all other sequences."""

    @property
    def past(self) -> Past | None:
        """What the next stage on this node can continue with; None: nothing."""

    @property
    def kv_bytes(self) -> int:
        """Bytes of all KV caches."""

    @property
    def kv_positions(self) -> int:
        """Number of positions that all sequences keep."""


SLICE_S = 0.03
"""Longest time that a chunk runs before other answers get a turn; exceeded by up to one layer."""


@dataclass(slots=True)
class RunningFrame:
    """A frame being computed in this process, and its result."""

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
        """Start the next computation; return its Wait, or None if the frame has ended; then `result` is set."""
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
    """Stages in this process, one after the other. Frames carry lazy arrays: nothing is copied.

    One thread computes for all sequences. So that a long chunk does not delay other answers, `receive` runs it for
    about `slice_s` and may return without a result. This changes no bit, because frames are computed alone.
    """

    n_stages = 1  # there is one thread
    frames_in_flight = 1

    def __init__(self, stages: Sequence[RunningStage], slice_s: float = SLICE_S) -> None:
        self.stages = tuple(stages)
        self._slice_s = slice_s
        self._sent: dict[str, deque[RunningFrame]] = {}

    def send(self, item: Outgoing) -> None:
        """See Link. The oldest frame is run for a slice at once, which builds the graph of a decode frame."""
        match item:
            case Frame():
                sent = deque(other for other in self._sent.get(item.sequence_id, ()) if not makes_void(item, other))
                self._sent[item.sequence_id] = sent
                sent.append(RunningFrame(item, self._steps(item)))
                self._advance(sent)
            case Batch():
                for frame in item.frames:
                    self.send(frame)
            case Fork():
                for stage in self.stages:
                    stage.fork(item.source_id, item.sequence_id, item.positions)
            case Cancel():
                self._cancel(item.sequence_id)
            case Release():
                self._cancel(item.sequence_id)
                for stage in self.stages:
                    stage.release(item.sequence_id)
            case Retain():
                for stage in self.stages:
                    stage.retain(item.sequence_ids)

    def receive(self, sequence_id: str) -> list[Returned]:
        """See Link. Runs the oldest unfinished frame for a slice."""
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

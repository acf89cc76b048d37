"""Pipeline: where the coordinator's worker sends frames: only this node's stage, or the ring of all nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cluster.worker.computing import Computing
from cluster.worker.recording import Recording
from mlx_moe.errors import FrameError
from mlx_moe.pipeline.frame import Cancel, Fork, Frame, Outgoing, Release, Returned, makes_void
from mlx_moe.pipeline.link import SLICE_S, RunningFrame

Receive = Callable[[Returned], None]
"""Processes what the last stage returns."""


class Pipeline(Protocol):
    """Sends to the first stage, in order. What the last stage returns is passed to the pipeline's `Receive`."""

    n_stages: int
    frames_in_flight: int
    computing: Computing
    recording: Recording

    async def send(self, item: Outgoing) -> None:
        """Send a message; this node's part of a frame is computed within this call."""

    async def advance(self, sequence_id: str) -> None:
        """Compute the sequence's frame that waits on this node, for a slice of time."""

    def waits(self, sequence_id: str) -> bool:
        """Whether a sequence's frame waits on this node to be computed further."""

    def cancel(self, cancel: Cancel) -> None:
        """Drop frames on all nodes now. A `send` of one of them returns after the current layer and sends nothing."""

    def overdue(self, now_s: float) -> set[str]:
        """Return the sequences of frames that did not return in time; `now_s` is monotonic."""


class LocalPipeline:
    """A single stage on this node. A long chunk is computed in slices, so that other answers do not wait for it."""

    n_stages = 1
    frames_in_flight = 1

    def __init__(self, computing: Computing, recording: Recording, receive: Receive) -> None:
        self.computing = computing
        self.recording = recording
        self._receive = receive
        self._sent: dict[str, RunningFrame] = {}  # at most one frame per sequence

    async def send(self, item: Outgoing) -> None:
        """See Pipeline."""
        match item:
            case Frame():
                before = self._sent.get(item.sequence_id)
                assert before is None or makes_void(item, before)
                self._sent[item.sequence_id] = RunningFrame(item, self.computing.stage.steps(item))
                await self.advance(item.sequence_id)
            case Fork():
                try:
                    self.computing.stage.fork(item.source_id, item.sequence_id, item.positions)
                except FrameError:  # the next frame raises RewindError
                    self.computing.stage.release(item.sequence_id)
            case Release():
                self.computing.stage.release(item.sequence_id)
            case Cancel():
                self.cancel(item)

    async def advance(self, sequence_id: str) -> None:
        """See Pipeline."""
        running = self._sent.get(sequence_id)
        if running is None or not await self.computing.advance(running, SLICE_S):
            return
        if self._sent.get(sequence_id) is running:
            del self._sent[sequence_id]
        if running.result is not None:
            self._receive(running.result)

    def waits(self, sequence_id: str) -> bool:
        """See Pipeline."""
        return sequence_id in self._sent

    def cancel(self, cancel: Cancel) -> None:
        """See Pipeline."""
        if running := self._sent.pop(cancel.sequence_id, None):
            running.steps.close()

    def overdue(self, now_s: float) -> set[str]:  # noqa: ARG002
        """See Pipeline. No frame leaves this node."""
        return set()

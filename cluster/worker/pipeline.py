"""Pipeline: what the coordinator's worker sends to, the stages of this node alone or the ring of all nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cluster.worker.computing import Computing
from cluster.worker.recording import Recording
from mlx_moe.pipeline.frame import Cancel, Fork, Frame, Outgoing, Release, Returned, makes_void
from mlx_moe.pipeline.link import SLICE_S, RunningFrame

Receive = Callable[[Returned], None]
"""Takes what comes out of the last stage."""


class Pipeline(Protocol):
    """An ordered way into the first stage. What comes out of the last one goes to the `Receive` it was made with."""

    n_stages: int
    frames_in_flight: int
    computing: Computing
    recording: Recording

    async def send(self, item: Outgoing) -> None:
        """Send something on its way; what this node computes of a frame is computed meanwhile."""

    async def advance(self, sequence_id: str) -> None:
        """Compute what waits here of a sequence, for a slice."""

    def waits(self, sequence_id: str) -> bool:
        """Whether a part of a sequence's frame waits here to be computed."""

    def cancel(self, cancel: Cancel) -> None:
        """Drop frames wherever they are, now; whoever is sending them goes on."""

    def overdue(self, now_s: float) -> set[str]:
        """Return the sequences of frames that have been elsewhere for too long, in monotonic seconds."""


class LocalPipeline:
    """One stage, on this node. A long chunk is computed in slices, so that it does not hold up other answers."""

    n_stages = 1
    frames_in_flight = 1

    def __init__(self, computing: Computing, recording: Recording, receive: Receive) -> None:
        self.computing = computing
        self.recording = recording
        self._receive = receive
        self._sent: dict[str, RunningFrame] = {}  # a sequence has one frame under way at most

    async def send(self, item: Outgoing) -> None:
        """See Pipeline."""
        match item:
            case Frame():
                before = self._sent.get(item.sequence_id)
                assert before is None or makes_void(item, before)
                self._sent[item.sequence_id] = RunningFrame(item, self.computing.stage.steps(item))
                await self.advance(item.sequence_id)
            case Fork():
                self.computing.stage.fork(item.source_id, item.sequence_id, item.positions)
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
        """See Pipeline. Nothing is elsewhere."""
        return set()

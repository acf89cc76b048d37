"""Pipeline: where the coordinator's worker sends frames: only this node's stage, or the ring of all nodes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cluster.worker.computing import Computing
from cluster.worker.recording import Recording
from mlx_moe.errors import FrameError
from mlx_moe.pipeline.frame import Batch, Cancel, Fork, Frame, Outgoing, Release, Retain, Returned, makes_void
from mlx_moe.pipeline.link import SLICE_S, RunningFrame

Receive = Callable[[Returned], None]
"""Processes what the last stage returns."""


class Pipeline:
    """Sends to the first stage, in order. What the last stage returns is passed to `receive`.

    The first stage is this node's. It computes steps at once, and a long chunk in slices, so that other answers do not
    wait for it. `recording` is what the coordinator did.
    """

    def __init__(
        self,
        computing: Computing,
        recording: Recording,
        receive: Receive,
        *,
        n_stages: int = 1,
        frames_in_flight: int = 1,
    ) -> None:
        self.computing = computing
        self.recording = recording
        self.n_stages = n_stages
        self.frames_in_flight = frames_in_flight
        self._receive = receive
        self._chunks: dict[str, tuple[RunningFrame, float]] = {}  # with the time at which it began; one of a sequence

    async def send(self, item: Outgoing) -> None:
        """Send a message; this node's part of a step, and a slice of a chunk, is computed within this call."""
        match item:
            case Frame() if not item.is_step:
                before = self._chunks.get(item.sequence_id)
                assert before is None or makes_void(item, before[0])
                running = RunningFrame(item, self.computing.stage.steps(item))
                self._chunks[item.sequence_id] = running, time.monotonic()
                await self.advance(item.sequence_id)
            case Frame() | Batch():
                frames = (item,) if isinstance(item, Frame) else item.frames
                began_s = time.monotonic()
                results = await self.computing.together(frames)
                await self._leave(frames, results, began_s)
            case Fork():
                try:
                    self.computing.stage.fork(item.source_id, item.sequence_id, item.positions)
                except FrameError:  # the next frame raises RewindError
                    self.computing.stage.release(item.sequence_id)
            case Release():
                self.computing.stage.release(item.sequence_id)
            case Retain():
                self.computing.stage.retain(item.sequence_ids)
            case Cancel():
                self.cancel(item)

    async def advance(self, sequence_id: str) -> None:
        """Compute the sequence's chunk that waits on this node, if there is one, for a slice of time."""
        if sequence_id not in self._chunks:
            return
        running, began_s = self._chunks[sequence_id]
        if not await self.computing.advance(running, SLICE_S):
            return
        if self._chunks.get(sequence_id, (None,))[0] is running:
            del self._chunks[sequence_id]
        await self._leave([running.frame], [running.result], began_s)

    def waits(self, sequence_id: str) -> bool:
        """Whether a sequence's chunk waits on this node to be computed further."""
        return sequence_id in self._chunks

    def cancel(self, cancel: Cancel) -> None:
        """Drop frames on all nodes now. A `send` of one of them returns after the current layer and sends nothing."""
        self._chunks.pop(cancel.sequence_id, None)
        self.computing.cancel(cancel)

    def overdue(self, now_s: float) -> set[str]:  # noqa: ARG002
        """Return the sequences of frames that did not return in time; `now_s` is monotonic."""
        return set()

    async def _leave(self, frames: Sequence[Frame], results: Sequence[Returned | None], began_s: float) -> None:  # noqa: ARG002
        """Process what the first stage made of frames since `began_s`; None of one that was cancelled."""
        for result in results:
            if result is not None:
                self._receive(result)

"""Link: how the coordinator reaches the stages. Here in process; over the network elsewhere, behind the same verbs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlx_moe.errors import MoeClusterError
from mlx_moe.pipeline.frame import Frame
from mlx_moe.pipeline.stage import StageCounts


class Link(Protocol):
    """An ordered way into the first stage and out of the last: every verb takes effect after those before it."""

    @property
    def n_stages(self) -> int:
        """Stages that compute at the same time, each a frame of its own."""

    @property
    def frames_in_flight(self) -> int:
        """Prefill frames of one request that may be under way at a time."""

    def send(self, frame: Frame) -> None:
        """Send a frame on its way. Those of its request in flight that start at its position or later are void.

        A void frame never comes back from `receive`, and a stage that it has not reached need not run it.

        Raises:
            FrameError, NumericsError: a stage in this process refuses it.
        """

    def receive(self, request_id: str) -> Frame | None:
        """Return a request's next frame from the last stage, in the order they were sent; None while it is under way.

        Raises:
            FrameError, NumericsError: a stage refused the frame.
        """

    def fork(self, source_id: str, request_id: str, positions: int) -> None:
        """Let the KV caches of a request begin as the first `positions` of another's, in place of what they were."""

    def cancel(self, request_id: str) -> None:
        """Drop the request's frames in flight; its KV caches stay."""

    def release(self, request_id: str) -> None:
        """Drop the request's frames in flight and free its KV caches everywhere."""


class RunningStage(Protocol):
    """What links need of a stage: Stage, or one that only takes as long; see there for the verbs."""

    node: str
    counts: StageCounts

    def run(self, frame: Frame) -> Frame:
        """Return the frame after the stage's last layer."""

    def steps(self, frame: Frame) -> Generator[None, None, Frame]:
        """Run a frame, with pauses in which frames of other requests may run."""

    def fork(self, source_id: str, request_id: str, positions: int) -> None:
        """Let a request begin as another's first positions."""

    def release(self, request_id: str) -> None:
        """Free what is kept of a request."""

    @property
    def kv_bytes(self) -> int:
        """Bytes of all KV caches."""

    @property
    def kv_positions(self) -> int:
        """Positions that all requests keep."""


SLICE_S = 0.1
"""A chunk pauses after about so long, at the end of a layer: other answers wait no longer for it."""


@dataclass(slots=True)
class _Sent:
    """A frame that was sent at a position: its steps, and what came of them."""

    position: int
    steps: Generator[None, None, Frame]
    result: Frame | None = None


class LocalLink:
    """Stages in this process, one behind the other. Frames carry lazy arrays: nothing is copied.

    One thread computes for all requests. So that a long chunk does not hold up other answers, `receive` runs it for
    `slice_s` and then says that it is under way. That changes no bit: the frames of a request are computed alone.
    """

    n_stages = 1  # there is one thread
    frames_in_flight = 1

    def __init__(self, stages: Sequence[RunningStage], slice_s: float = SLICE_S) -> None:
        self.stages = tuple(stages)
        self._slice_s = slice_s
        self._sent: dict[str, deque[_Sent]] = {}

    @property
    def under_way(self) -> list[str]:
        """The requests that have a frame which waits for its next slice."""
        return [name for name, sent in self._sent.items() if sent and sent[0].result is None]

    def send(self, frame: Frame) -> None:
        """See Link."""
        sent = self._sent.setdefault(frame.request_id, deque())
        while sent and sent[-1].position >= frame.position:
            sent.pop()
        sent.append(_Sent(frame.position, self._steps(frame)))
        self._advance(sent)

    def receive(self, request_id: str) -> Frame | None:
        """See Link."""
        sent = self._sent[request_id]
        if sent[0].result is None:
            self._advance(sent)
        return None if sent[0].result is None else sent.popleft().result

    def fork(self, source_id: str, request_id: str, positions: int) -> None:
        """See Link."""
        for stage in self.stages:
            stage.fork(source_id, request_id, positions)

    def cancel(self, request_id: str) -> None:
        """See Link."""
        self._sent.pop(request_id, None)

    def release(self, request_id: str) -> None:
        """See Link."""
        self.cancel(request_id)
        for stage in self.stages:
            stage.release(request_id)

    def _steps(self, frame: Frame) -> Generator[None, None, Frame]:
        for stage in self.stages:
            frame = yield from stage.steps(frame)
        return frame

    def _advance(self, sent: deque[_Sent]) -> None:
        """Run the oldest frame that is not done for one slice."""
        oldest = next((frame for frame in sent if frame.result is None), None)
        if oldest is None:
            return
        ends_at = time.monotonic() + self._slice_s
        try:
            next(oldest.steps)
            while time.monotonic() < ends_at:
                next(oldest.steps)
        except StopIteration as done:
            oldest.result = done.value
        except MoeClusterError:
            sent.remove(oldest)
            raise

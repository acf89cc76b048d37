"""Link: how the coordinator reaches the stages. Here in process; over the network elsewhere, behind the same verbs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from mlx_moe.frame import Frame
from mlx_moe.stage import StageCounts


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


class LocalLink:
    """Stages in this process, one behind the other. Frames carry lazy arrays: nothing is copied or waited for."""

    n_stages = 1  # there is one thread
    frames_in_flight = 1

    def __init__(self, stages: Sequence[RunningStage]) -> None:
        self.stages = tuple(stages)
        self._returned: dict[str, deque[tuple[int, Frame]]] = {}  # with the position each was sent at

    def send(self, frame: Frame) -> None:
        """See Link."""
        position = frame.position
        for stage in self.stages:
            frame = stage.run(frame)
        returned = self._returned.setdefault(frame.request_id, deque())
        while returned and returned[-1][0] >= position:
            returned.pop()
        returned.append((position, frame))

    def receive(self, request_id: str) -> Frame:
        """See Link. It is never under way."""
        return self._returned[request_id].popleft()[1]

    def fork(self, source_id: str, request_id: str, positions: int) -> None:
        """See Link."""
        for stage in self.stages:
            stage.fork(source_id, request_id, positions)

    def cancel(self, request_id: str) -> None:
        """See Link."""
        self._returned.pop(request_id, None)

    def release(self, request_id: str) -> None:
        """See Link."""
        self.cancel(request_id)
        for stage in self.stages:
            stage.release(request_id)

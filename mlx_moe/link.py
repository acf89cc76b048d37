"""Link: how the coordinator reaches the stages. Here in process; over the network elsewhere, behind the same verbs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from mlx_moe.frame import Frame
from mlx_moe.stage import Stage


class Link(Protocol):
    """An ordered way into the first stage and out of the last: every verb takes effect after those before it."""

    @property
    def frames_in_flight(self) -> int:
        """Prefill frames of one request that may be under way at a time."""

    def send(self, frame: Frame) -> None:
        """Send a frame on its way. Raises FrameError, NumericsError where a stage in this process refuses it."""

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


class LocalLink:
    """Stages in this process, one behind the other. Frames carry lazy arrays: nothing is copied or waited for."""

    frames_in_flight = 1

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self._returned: dict[str, deque[Frame]] = {}

    def send(self, frame: Frame) -> None:
        """See Link."""
        for stage in self.stages:
            frame = stage.run(frame)
        self._returned.setdefault(frame.request_id, deque()).append(frame)

    def receive(self, request_id: str) -> Frame:
        """See Link. It is never under way."""
        return self._returned[request_id].popleft()

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

"""Link: how the coordinator reaches the stages. Here in process; over the network elsewhere, behind the same verbs."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from mlx_moe.frame import Frame
from mlx_moe.stage import Stage


class Link(Protocol):
    """An ordered way into the first stage and out of the last."""

    def send(self, frame: Frame) -> None:
        """Send a frame on its way. Raises FrameError, NumericsError where a stage refuses it."""

    def receive(self, request_id: str) -> Frame:
        """Return a request's next frame from the last stage, in the order they were sent."""

    def cancel(self, request_id: str) -> None:
        """Drop the request's frames in flight; its KV caches stay."""

    def release(self, request_id: str) -> None:
        """Drop the request's frames in flight and free its KV caches everywhere."""


class LocalLink:
    """Stages in this process, one behind the other. Frames carry lazy arrays: nothing is copied or waited for."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = tuple(stages)
        self._returned: dict[str, deque[Frame]] = {}

    def send(self, frame: Frame) -> None:
        """See Link."""
        for stage in self.stages:
            frame = stage.run(frame)
        self._returned.setdefault(frame.request_id, deque()).append(frame)

    def receive(self, request_id: str) -> Frame:
        """See Link."""
        return self._returned[request_id].popleft()

    def cancel(self, request_id: str) -> None:
        """See Link."""
        self._returned.pop(request_id, None)

    def release(self, request_id: str) -> None:
        """See Link."""
        self.cancel(request_id)
        for stage in self.stages:
            stage.release(request_id)

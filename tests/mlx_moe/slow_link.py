"""SlowLink: stages behind queues, as a network is. Nothing happens until the test lets the next thing happen."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlx_moe.errors import MoeClusterError
from mlx_moe.pipeline.frame import Frame
from mlx_moe.pipeline.stage import Stage


@dataclass(frozen=True)
class Asked:
    """One thing on its way through the stages: a frame that was sent at a position, or what to do with each stage."""

    request_id: str
    serial: int
    position: int
    content: Frame | MoeClusterError | Callable[[Stage], None]

    def after(self, stage: Stage) -> Asked:
        """Return what leaves a stage; a failure passes through."""
        content = self.content
        if isinstance(content, Frame):
            try:
                content = stage.run(content)
            except MoeClusterError as error:
                content = error
        elif not isinstance(content, MoeClusterError):
            content(stage)
        return Asked(self.request_id, self.serial, self.position, content)

    def makes_void(self, other: Asked) -> bool:
        """Whether another one that was sent before is void by the position rule."""
        both = isinstance(self.content, Frame) and isinstance(other.content, Frame)
        return both and self.request_id == other.request_id and other.position >= self.position


class SlowLink:
    """A Link that moves one thing a `step`: the oldest that waits for a stage goes through it, and waits for the next.

    A frame that comes to wait for a stage voids what waits there of its request, at its position or later.
    """

    def __init__(self, stages: Sequence[Stage], frames_in_flight: int = 3) -> None:
        self.n_stages = len(stages)
        self.frames_in_flight = frames_in_flight
        self.most_in_flight = 0
        self._stages = stages
        self._waiting: list[deque[Asked]] = [deque() for _ in stages]
        self._sent: defaultdict[str, deque[Asked]] = defaultdict(deque)
        self._returned: defaultdict[str, deque[Asked]] = defaultdict(deque)
        self._serial = 0

    @property
    def sent(self) -> int:
        """How many frames have been sent."""
        return self._serial

    def step(self, stage: int | None = None) -> None:
        """Let a stage do the oldest thing that waits for it; without a number, the last stage that has any."""
        if stage is None:
            stage = max((i for i, waiting in enumerate(self._waiting) if waiting), default=0)
        if not self._waiting[stage]:
            return
        asked = self._waiting[stage].popleft().after(self._stages[stage])
        if stage + 1 < self.n_stages:
            self._arrive(stage + 1, asked)
            return
        sent = self._sent[asked.request_id]
        if sent and sent[0].serial == asked.serial:  # else it was cancelled, or is void
            sent.popleft()
            self._returned[asked.request_id].append(asked)

    def send(self, frame: Frame) -> None:
        """See Link."""
        self._serial += 1
        asked = Asked(frame.request_id, self._serial, frame.position, frame)
        for queue in (self._sent[frame.request_id], self._returned[frame.request_id]):
            while queue and queue[-1].position >= frame.position:
                queue.pop()
        self._sent[frame.request_id].append(asked)
        self._arrive(0, asked)
        self.most_in_flight = max(self.most_in_flight, len(self._sent[frame.request_id]))

    def receive(self, request_id: str) -> Frame | None:
        """See Link."""
        if not self._returned[request_id]:
            assert self._sent[request_id], "nothing is under way"
            return None
        content = self._returned[request_id].popleft().content
        if isinstance(content, MoeClusterError):
            raise content
        assert isinstance(content, Frame)
        return content

    def fork(self, source_id: str, request_id: str, positions: int) -> None:
        """See Link."""
        self._arrive(0, Asked(request_id, 0, 0, lambda stage: stage.fork(source_id, request_id, positions)))

    def cancel(self, request_id: str) -> None:
        """See Link."""
        for i, waiting in enumerate(self._waiting):
            self._waiting[i] = deque(
                asked for asked in waiting if asked.request_id != request_id or not isinstance(asked.content, Frame)
            )
        self._sent.pop(request_id, None)
        self._returned.pop(request_id, None)

    def release(self, request_id: str) -> None:
        """See Link."""
        self.cancel(request_id)
        self._arrive(0, Asked(request_id, 0, 0, lambda stage: stage.release(request_id)))

    def settle(self) -> None:
        """Let all stages do all that was asked."""
        while any(self._waiting):
            self.step()

    def _arrive(self, stage: int, asked: Asked) -> None:
        waiting = self._waiting[stage]
        self._waiting[stage] = deque(other for other in waiting if not asked.makes_void(other))
        self._waiting[stage].append(asked)

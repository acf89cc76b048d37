"""SlowLink: stages behind queues, as a network is. Nothing happens until the test lets the next thing happen."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

from mlx_moe.errors import MoeClusterError
from mlx_moe.pipeline.frame import Cancel, Fork, Frame, Outgoing, Refused, Release, Retain, Returned, makes_void
from mlx_moe.pipeline.link import RunningStage

Asked = Frame | Refused | Fork | Release


def _after(asked: Asked, stage: RunningStage) -> Asked:
    """Return what leaves a stage; a refusal passes through."""
    match asked:
        case Frame():
            try:
                return stage.run(asked)
            except MoeClusterError as error:
                return Refused(asked.sequence_id, asked.serial, error)
        case Fork():
            stage.fork(asked.source_id, asked.sequence_id, asked.positions)
        case Release():
            stage.release(asked.sequence_id)
    return asked


class SlowLink:
    """A Link that moves one thing a `step`: the oldest that waits for a stage goes through it, and waits for the next.

    A frame that comes to wait for a stage voids what waits there of its sequence, at its position or later.
    """

    def __init__(self, stages: Sequence[RunningStage], frames_in_flight: int = 3) -> None:
        self.n_stages = len(stages)
        self.frames_in_flight = frames_in_flight
        self.most_in_flight = 0
        self.sent = 0
        self._stages = stages
        self._waiting: list[deque[Asked]] = [deque() for _ in stages]
        self._returned: defaultdict[str, list[Returned]] = defaultdict(list)

    def step(self, stage: int | None = None) -> None:
        """Let a stage do the oldest thing that waits for it; without a number, the last stage that has any."""
        if stage is None:
            stage = max((i for i, waiting in enumerate(self._waiting) if waiting), default=0)
        if not self._waiting[stage]:
            return
        asked = _after(self._waiting[stage].popleft(), self._stages[stage])
        if stage + 1 < self.n_stages:
            self._arrive(stage + 1, asked)
        elif isinstance(asked, Frame | Refused):
            self._returned[asked.sequence_id].append(asked)

    def send(self, item: Outgoing) -> None:
        """See Link."""
        if isinstance(item, Retain):
            for stage in self._stages:
                stage.retain(item.sequence_ids)
            return
        if isinstance(item, Cancel):
            self._waiting = [
                deque(asked for asked in queue if not _is_cancelled(asked, item)) for queue in self._waiting
            ]
            return
        self.sent += isinstance(item, Frame)
        self._arrive(0, item)
        in_flight = sum(asked.sequence_id == item.sequence_id for queue in self._waiting for asked in queue)
        self.most_in_flight = max(self.most_in_flight, in_flight)

    def receive(self, sequence_id: str) -> list[Returned]:
        """See Link."""
        return self._returned.pop(sequence_id, [])

    def settle(self) -> None:
        """Let all stages do all that was asked."""
        while any(self._waiting):
            self.step()

    def _arrive(self, stage: int, asked: Asked) -> None:
        waiting = self._waiting[stage]
        if isinstance(asked, Frame):
            waiting = deque(other for other in waiting if not (isinstance(other, Frame) and makes_void(asked, other)))
            self._waiting[stage] = waiting
        waiting.append(asked)


def _is_cancelled(asked: Asked, cancel: Cancel) -> bool:
    return isinstance(asked, Frame) and asked.sequence_id == cancel.sequence_id and asked.serial <= cancel.serial

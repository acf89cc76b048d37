"""SlowLink: stages behind a queue, as a network is. Nothing happens until the test lets the next thing happen."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from mlx_moe.errors import MoeClusterError
from mlx_moe.frame import Frame
from mlx_moe.link import LocalLink
from mlx_moe.stage import Stage


class SlowLink:
    """A Link whose verbs are carried out one by one, in order, by `step`."""

    def __init__(self, stages: Sequence[Stage], frames_in_flight: int = 3) -> None:
        self.frames_in_flight = frames_in_flight
        self.most_in_flight = 0
        self._local = LocalLink(stages)
        self._queue: deque[tuple[str, Frame | Callable[[], None]]] = deque()
        self._returned: dict[str, deque[Frame | MoeClusterError]] = defaultdict(deque)

    def step(self) -> None:
        """Carry out the oldest thing that was asked."""
        if not self._queue:
            return
        request_id, asked = self._queue.popleft()
        if not isinstance(asked, Frame):
            asked()
            return
        try:
            self._local.send(asked)
            self._returned[request_id].append(self._local.receive(request_id))
        except MoeClusterError as error:
            self._returned[request_id].append(error)

    def send(self, frame: Frame) -> None:
        """See Link."""
        self._queue.append((frame.request_id, frame))
        self.most_in_flight = max(self.most_in_flight, self._in_flight(frame.request_id))

    def receive(self, request_id: str) -> Frame | None:
        """See Link."""
        if not self._returned[request_id]:
            assert self._in_flight(request_id), "nothing is under way"
            return None
        returned = self._returned[request_id].popleft()
        if isinstance(returned, MoeClusterError):
            raise returned
        return returned

    def fork(self, source_id: str, request_id: str, positions: int) -> None:
        """See Link."""
        self._queue.append((request_id, lambda: self._local.fork(source_id, request_id, positions)))

    def cancel(self, request_id: str) -> None:
        """See Link."""
        self._queue = deque(
            (name, asked) for name, asked in self._queue if name != request_id or not isinstance(asked, Frame)
        )
        self._returned.pop(request_id, None)

    def release(self, request_id: str) -> None:
        """See Link."""
        self.cancel(request_id)
        self._queue.append((request_id, lambda: self._local.release(request_id)))

    def settle(self) -> None:
        """Carry out all that was asked."""
        while self._queue:
            self.step()

    def _in_flight(self, request_id: str) -> int:
        return sum(name == request_id and isinstance(asked, Frame) for name, asked in self._queue)

"""FramesInFlight: the frames of one answer that are in flight, and their results."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import mlx.core as mx

from mlx_moe.pipeline.frame import Cancel, Frame, Refused, Returned, makes_void


@dataclass(slots=True)
class _InFlight:
    sequence_id: str
    serial: int
    position: int
    end: int
    returned: Returned | None = None


class FramesInFlight:
    """A queue of frames in the order in which they were sent; results are taken in this order."""

    def __init__(self) -> None:
        self._frames: deque[_InFlight] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def end(self) -> int | None:
        """The end of the newest frame; None if there is none."""
        return self._frames[-1].end if self._frames else None

    def add(self, frame: Frame, end: int) -> None:
        """Add a frame, of which positions up to `end` will be kept; frames that it makes void are forgotten."""
        self._frames = deque(other for other in self._frames if not makes_void(frame, other))
        self._frames.append(_InFlight(frame.sequence_id, frame.serial, frame.position, end))

    def receive(self, returned: Returned) -> bool:
        """Store a result until it is taken; return whether its frame is in flight."""
        frame = next((frame for frame in self._frames if frame.serial == returned.serial), None)
        if frame is not None:
            frame.returned = returned
        return frame is not None

    def peek(self) -> mx.array | None:
        """Return the oldest frame's hidden states `[L, D]`; None while it is in flight, or if it was refused."""
        returned = self._frames[0].returned if self._frames else None
        return returned.hidden_states if isinstance(returned, Frame) else None

    def take(self) -> tuple[int, mx.array] | None:
        """Return the oldest frame's end and hidden states `[L, D]`; None while it is in flight.

        Raises:
            MoeClusterError: a stage refused it.
        """
        if not self._frames or self._frames[0].returned is None:
            return None
        sent = self._frames.popleft()
        if isinstance(sent.returned, Refused):
            raise sent.returned.error
        assert sent.returned is not None
        return sent.end, sent.returned.hidden_states

    def cancel(self) -> list[Cancel]:
        """Forget all frames; return the Cancel to send, if any."""
        newest = self._frames[-1] if self._frames else None
        self._frames.clear()
        return [] if newest is None else [Cancel(newest.sequence_id, newest.serial)]

"""KeptFrames: the frames that a stage has run, so that a later stage with its caches need not compute them again."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from hashlib import sha256

import mlx.core as mx

from mlx_moe.pipeline.frame import Frame


@dataclass(slots=True)
class _Kept:
    """A frame that has run. Its arrays are replaced by a digest of the input and the bytes of the result with the next
    frame, when both have values: rows of a batch would keep the whole batch in memory.

    `outputs`: see Frame.
    """

    position: int
    end: int
    outputs: int | None
    shape: tuple[int, ...]
    dtype: mx.Dtype
    arrays: tuple[mx.array, mx.array] | None
    digest: bytes = b""
    data: bytes = b""

    def settle(self) -> None:
        """Replace the arrays."""
        if self.arrays is not None:
            hidden_states, result = self.arrays
            self.digest, self.data = _digest(hidden_states), bytes(_bytes_of(result))
            self.arrays = None

    def result(self) -> mx.array:
        """Return the result, once it is settled."""
        return mx.array(memoryview(self.data)).view(self.dtype).reshape(self.shape)  # type: ignore[arg-type]


class KeptFrames:
    """The newest run of each position of sequences, from position 0 on, with `most_rows` of results at most.

    Where there is no room, the sequence that has run no frame for the longest time is dropped.
    """

    def __init__(self, most_rows: int) -> None:
        self._most_rows = most_rows
        self._rows = 0
        self._of: dict[str, list[_Kept]] = {}

    def __contains__(self, sequence_id: str) -> bool:
        """Whether there are frames of a sequence."""
        return bool(self._of.get(sequence_id))

    def add(self, frame: Frame, result: mx.array) -> None:
        """Add a frame that has run; both arrays may still be computed."""
        kept = self._of.pop(frame.sequence_id, [])
        self._of[frame.sequence_id] = kept  # the most recent one is last
        if (kept[-1].end if kept else 0) != frame.position:
            return  # what is before it was not kept: it could not be found
        if kept:
            kept[-1].settle()
        end = frame.position + frame.hidden_states.shape[0]
        arrays = frame.hidden_states, result
        kept.append(_Kept(frame.position, end, frame.outputs, result.shape, result.dtype, arrays))
        self._rows += result.shape[0]
        while self._rows > self._most_rows:
            oldest = next(iter(self._of))
            if oldest == frame.sequence_id:
                self.rewind(oldest, frame.position)
            else:
                self.release(oldest)

    def find(self, frame: Frame, hidden_states: mx.array) -> mx.array | None:
        """Return the result of the frame that has run at a frame's place, with the input `hidden_states`."""
        frames = self._of.get(frame.sequence_id, [])
        at = bisect_left(frames, frame.position, key=lambda kept: kept.position)
        if at == len(frames) or (frames[at].position, frames[at].outputs) != (frame.position, frame.outputs):
            return None
        frames[at].settle()
        return frames[at].result() if frames[at].digest == _digest(hidden_states) else None

    def rewind(self, sequence_id: str, position: int) -> None:
        """Drop the frames that end after `position`."""
        kept = self._of.get(sequence_id, [])
        while kept and kept[-1].end > position:
            self._rows -= kept.pop().shape[0]

    def fork(self, source_id: str, sequence_id: str, positions: int) -> None:
        """Replace a sequence's frames by those of another's first `positions`."""
        self.release(sequence_id)
        self._of[sequence_id] = [kept for kept in self._of.get(source_id, ()) if kept.end <= positions]
        self._rows += sum(kept.shape[0] for kept in self._of[sequence_id])

    def release(self, sequence_id: str) -> None:
        """Drop all frames of a sequence."""
        self.rewind(sequence_id, 0)
        self._of.pop(sequence_id, None)


def _digest(array: mx.array) -> bytes:
    return sha256(_bytes_of(array)).digest()


def _bytes_of(array: mx.array) -> memoryview:
    """Return a view of an array's bytes; evaluates it."""
    return memoryview(array).cast("B")  # type: ignore[arg-type]  # MLX's stubs lack the buffer protocol

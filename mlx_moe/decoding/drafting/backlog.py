"""Backlog: hidden states of the newest positions that a drafter has not processed yet.

Shapes: L positions, D hidden_size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import mlx.core as mx

KEPT = 512
"""Newest positions that are always kept; up to one chunk more may be kept. Limits memory and processing time."""


class Backlog:
    """Hidden states of the positions `start`, ..., `end` - 1. If there are too many, the oldest are dropped."""

    def __init__(self, start: int = 0, arrays: Iterable[mx.array] = ()) -> None:
        self.start = start
        self._arrays = deque(arrays)  # [L, D] each
        self.end = start + sum(array.shape[0] for array in self._arrays)

    def __len__(self) -> int:
        return self.end - self.start

    def add(self, hidden_states: mx.array) -> None:
        """Append the hidden states `[L, D]` of the next positions."""
        self._arrays.append(hidden_states)
        self.end += hidden_states.shape[0]
        while len(self) - self._arrays[0].shape[0] >= KEPT:
            self.start += self._arrays.popleft().shape[0]

    def take(self, count: int) -> mx.array:
        """Remove and return the first `count` hidden states `[count, D]`; `count` is at least 1."""
        joined = mx.concatenate(list(self._arrays))
        self._arrays = deque([joined[count:]] if count < len(self) else ())
        self.start += count
        return joined[:count]

    def before(self, position: int) -> Backlog:
        """Return a backlog of the positions before `position`, which is its end."""
        count = position - self.start
        if count <= 0:
            return Backlog(position)
        return Backlog(self.start, [mx.concatenate(list(self._arrays))[:count]] if self._arrays else ())

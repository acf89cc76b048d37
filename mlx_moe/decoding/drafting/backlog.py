"""Backlog: hidden states of the newest positions that a drafter has not run over yet.

Shapes: L positions, D hidden_size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import mlx.core as mx

KEPT = 512
"""Positions that are never given up. With less than one chunk more they bound memory, and the time to run over them."""


class Backlog:
    """Hidden states of the positions `start`, ..., `end` - 1. Of many the oldest give way: `start` moves on."""

    def __init__(self, start: int = 0, arrays: Iterable[mx.array] = ()) -> None:
        self.start = start
        self._arrays = deque(arrays)  # [L, D] each
        self.end = start + sum(array.shape[0] for array in self._arrays)

    def __len__(self) -> int:
        return self.end - self.start

    def add(self, hidden_states: mx.array) -> None:
        """Append those of the next positions, `[L, D]`."""
        self._arrays.append(hidden_states)
        self.end += hidden_states.shape[0]
        while len(self) - self._arrays[0].shape[0] >= KEPT:
            self.start += self._arrays.popleft().shape[0]

    def take(self, count: int) -> mx.array:
        """Return the first `count` `[count, D]`, of which there must be one at least; they are gone."""
        joined = mx.concatenate(list(self._arrays))
        self._arrays = deque([joined[count:]] if count < len(self) else ())
        self.start += count
        return joined[:count]

    def before(self, position: int) -> Backlog:
        """Return one of the same positions, as far as they lie before `position`; it ends there."""
        count = position - self.start
        if count <= 0:
            return Backlog(position)
        return Backlog(self.start, [mx.concatenate(list(self._arrays))[:count]] if self._arrays else ())

"""WindowCache: the LayerCache of an attention that sees only a window of the last positions.

It keeps the window, and REACH earlier positions at least, so that drafts and changed turns of a chat can rewind. A
rewind further back reaches position 0. Arrays grow along their second-last axis, the position.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_moe.errors import FrameError
from mlx_moe.layers import cache_costs
from mlx_moe.layers.cache_costs import GROWTH


class WindowCache:
    """Buffers `[..., rows, width]` of the positions from `first` on; a position sees the `window` up to its own."""

    def __init__(self, window: int) -> None:
        self.length = 0
        self._window = window
        self._first = 0
        self._buffers: list[mx.array] = []
        self._capacity = 0

    def append(self, *new: mx.array) -> list[mx.array]:
        """Write arrays `[..., L, width]` after the kept positions; return what they see: up to window - 1 before them.

        What is returned depends on the positions alone, not on what else is kept.
        """
        start, end = self._seen_from(self.length), self.length + new[0].shape[-2]
        if end - self._first > self._capacity:
            self._move(start, end, new)
        rows = slice(self.length - self._first, end - self._first)
        for buffer, array in zip(self._buffers, new, strict=True):
            buffer[..., rows, :] = array
        self.length = end
        return [buffer[..., start - self._first : end - self._first, :] for buffer in self._buffers]

    def rewind(self, position: int) -> int:
        """See LayerCache. If the window before `position` is no longer kept, nothing is."""
        if position > self.length:
            raise FrameError(f"a frame starts at position {position} but only {self.length} positions are kept")
        if self._seen_from(position) < self._first:
            self.length = self._first = self._capacity = 0
            self._buffers = []
        else:
            self.length = position
        return self.length

    def fork(self, positions: int) -> WindowCache:
        """See LayerCache. Both share memory until one of them is written."""
        fork = WindowCache(self._window)
        if self._seen_from(positions) >= self._first:
            fork.length, fork._first, fork._capacity = positions, self._first, positions - self._first
            fork._buffers = [buffer[..., : fork._capacity, :] for buffer in self._buffers]
        return fork

    @property
    def nbytes(self) -> int:
        """See LayerCache."""
        return sum(buffer.nbytes for buffer in self._buffers)

    @property
    def arrays(self) -> list[mx.array]:
        """See LayerCache."""
        return self._buffers

    def _seen_from(self, position: int) -> int:
        return max(0, position - self._window + 1)

    def _move(self, seen_from: int, end: int, new: tuple[mx.array, ...]) -> None:
        """Make room up to `end`: in larger buffers, or in place of the oldest positions if these are full."""
        limit, first = cache_costs.window_rows(self._window), self._first
        if end - first > limit:
            first = min(seen_from, end - (limit - GROWTH))
        self._capacity = -(-(end - first) // GROWTH) * GROWTH
        kept = slice(first - self._first, self.length - self._first)
        n_kept = self.length - first
        moved = []
        for i, array in enumerate(new):
            room = mx.zeros((*array.shape[:-2], self._capacity - n_kept, array.shape[-1]), array.dtype)
            moved.append(mx.concatenate([self._buffers[i][..., kept, :], room], axis=-2) if n_kept else room)
        self._buffers, self._first = moved, first

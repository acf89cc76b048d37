"""KVCache: the LayerCache of an attention that keeps one entry per position; it can rewind to any position.

Knows nothing about kinds of attention: it keeps arrays that grow along their second-last axis, the position.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_moe.errors import FrameError
from mlx_moe.layers.cache_costs import GROWTH


class KVCache:
    """Buffers `[..., capacity, width]`, of which the first `length` positions are valid."""

    def __init__(self) -> None:
        self.length = 0
        self._buffers: list[mx.array] = []
        self._capacity = 0

    def append(self, *new: mx.array) -> list[mx.array]:
        """Write arrays `[..., L, width]` after the valid positions; return the arrays of all positions."""
        n_new = new[0].shape[-2]
        end = self.length + n_new
        if end > self._capacity:
            self._grow(new, end)
        for i, array in enumerate(new):
            self._buffers[i][..., self.length : end, :] = array
        self.length = end
        if end == self._capacity:
            return list(self._buffers)
        return [buffer[..., :end, :] for buffer in self._buffers]

    def rewind(self, position: int) -> int:
        """See LayerCache."""
        if position > self.length:
            raise FrameError(f"a frame starts at position {position} but only {self.length} positions are kept")
        self.length = position
        return position

    def fork(self, positions: int) -> KVCache:
        """See LayerCache. Both share memory until one of them is written."""
        fork = KVCache()
        fork.length = fork._capacity = positions
        fork._buffers = [buffer[..., :positions, :] for buffer in self._buffers]
        return fork

    @property
    def nbytes(self) -> int:
        """See LayerCache."""
        return sum(buffer.nbytes for buffer in self._buffers)

    @property
    def arrays(self) -> list[mx.array]:
        """See LayerCache."""
        return self._buffers

    def _grow(self, new: tuple[mx.array, ...], end: int) -> None:
        capacity = -(-end // GROWTH) * GROWTH
        grown = []
        for i, array in enumerate(new):
            shape = (*array.shape[:-2], capacity - self.length, array.shape[-1])
            room = mx.zeros(shape, array.dtype)
            kept = [self._buffers[i][..., : self.length, :]] if self.length else []
            grown.append(mx.concatenate([*kept, room], axis=-2) if kept else room)
        self._buffers, self._capacity = grown, capacity

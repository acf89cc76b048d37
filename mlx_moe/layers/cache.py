"""LayerCache: the state that one layer keeps for the positions of one sequence.

Each kind of attention has its own cache: it may keep one entry per position, or one state updated by every position. Of
such a state only some earlier values may be kept, so a cache may not be able to rewind to every position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import mlx.core as mx


class LayerCache(Protocol):
    """One layer's state after the first `length` positions of a sequence. Only the layer that made it writes to it."""

    @property
    def length(self) -> int:
        """Number of kept positions, from position 0 on."""

    def rewind(self, position: int) -> int:
        """Remove the positions from `position` on, and earlier ones too if the state at `position` is no longer kept.

        Returns:
            The new length, at most `position`. A rewind to the start of the layer's last call always succeeds.

        Raises:
            FrameError: fewer than `position` positions are kept.
        """

    def fork(self, positions: int) -> Self:
        """Return a cache of the first `positions`, which must be kept, or of as many as a rewind would reach.

        This cache does not change. Both may share memory until one of them is written.
        """

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""

    @property
    def arrays(self) -> Sequence[mx.array]:
        """The arrays of the cache, for evaluation."""


def rewind_all(caches: Sequence[LayerCache], position: int) -> int:
    """Rewind caches to `position`, or to the nearest earlier position that all can reach; return the one reached.

    Raises:
        FrameError: a cache keeps fewer than `position` positions.
    """
    for cache in caches:
        reached = cache.rewind(position)
        if reached < position:
            return rewind_all(caches, reached)
    return position

"""LayerCache: what one layer keeps of one request's positions.

Each attention makes its own: it may keep an entry a position, or one state that all positions have made. Of a state,
only some earlier values may be kept, so a cache may not be able to rewind to every position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

import mlx.core as mx


class LayerCache(Protocol):
    """The first `length` positions of a request, as one layer needs them. Only the layer that made it writes to it."""

    @property
    def length(self) -> int:
        """How many positions are kept, from position 0 on."""

    def rewind(self, position: int) -> int:
        """Forget the positions from `position` on, and more where the state of that position is gone.

        Returns:
            The new length, at most `position`. To where the layer's last call began, a rewind always reaches.

        Raises:
            FrameError: fewer than `position` positions are kept.
        """

    def fork(self, positions: int) -> Self:
        """Return a cache of the first `positions`, which must be kept, or as many as a rewind would reach.

        This one stays as it is. They may share memory until one of them is written.
        """

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""

    @property
    def arrays(self) -> Sequence[mx.array]:
        """Its arrays, to evaluate them."""


def rewind_all(caches: Sequence[LayerCache], position: int) -> int:
    """Rewind caches to `position`, or to the nearest position before it that all of them reach; return it.

    Raises:
        FrameError: one of them keeps fewer than `position` positions.
    """
    for cache in caches:
        reached = cache.rewind(position)
        if reached < position:
            return rewind_all(caches, reached)
    return position

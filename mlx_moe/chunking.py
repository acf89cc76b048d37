"""Chunk boundaries: where a prompt is cut into prefill frames, by position alone.

Kernels of another shape give other last bits. So the cut depends neither on the prompt's length, nor on the placement,
nor on what was kept of an earlier request: the same position is computed in the same chunk everywhere.
"""

from __future__ import annotations

import math

CHUNK_SIZES = ((256, 32), (4096, 128), (math.inf, 512))
"""Up to a position, positions a chunk. Small ones fill a pipeline early, large ones read each expert once for many."""


def chunk_start(position: int) -> int:
    """Return where the chunk of `position` begins."""
    size = _chunk_size(position)
    return position // size * size


def chunk_end(position: int) -> int:
    """Return the first position after the chunk of `position`."""
    return chunk_start(position) + _chunk_size(position)


def _chunk_size(position: int) -> int:
    return next(size for end, size in CHUNK_SIZES if position < end)

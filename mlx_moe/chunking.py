"""Chunk boundaries: where a prompt is cut into prefill frames, by how many of its positions are to be run.

Kernels of another shape give other last bits. So the cut does not depend on the placement: the same request is run in
the same chunks on one machine and on many.
"""

from __future__ import annotations

SHORTEST, LONGEST = 32, 512

WANTED = 8
"""Chunks of a prompt: so many keep a pipeline of as many stages busy; fewer and longer ones read each expert less."""


def chunk_length(new_positions: int) -> int:
    """Return the length of the chunks in which so many positions of a prompt are run: the nearest power of two."""
    length = SHORTEST
    while length < LONGEST and new_positions**2 > 2 * (WANTED * length) ** 2:
        length *= 2
    return length


def chunk_start(position: int, length: int) -> int:
    """Return where the chunk of `position` begins."""
    return position // length * length


def chunk_end(position: int, length: int) -> int:
    """Return the first position after the chunk of `position`."""
    return chunk_start(position, length) + length

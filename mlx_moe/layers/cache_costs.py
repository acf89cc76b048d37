"""CacheCosts: the memory of caches. Imports no MLX, because plans are made without it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheCosts:
    """Bytes of one sequence's caches: a fixed part, and a part for each position."""

    fixed_bytes: int = 0
    bytes_per_position: int = 0

    def __add__(self, other: CacheCosts) -> CacheCosts:
        """Return the sum of both costs."""
        return CacheCosts(self.fixed_bytes + other.fixed_bytes, self.bytes_per_position + other.bytes_per_position)

    def nbytes(self, positions: int) -> int:
        """Return the bytes for a number of positions."""
        return self.fixed_bytes + positions * self.bytes_per_position

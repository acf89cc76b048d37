"""CacheCosts: the memory of caches. Imports no MLX, because plans are made without it."""

from __future__ import annotations

from dataclasses import dataclass

STATES_KEPT = 8
"""States that a layer with a recurrent state keeps of one sequence, the newest included."""

INPUTS_KEPT = 24
"""Newest single positions whose inputs it keeps, from which it folds the states between them again."""


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


def recurrent(state_bytes: int, input_bytes: int) -> CacheCosts:
    """Return the most that a layer keeps of a recurrent state, given the bytes of one and of a position's inputs."""
    return CacheCosts(fixed_bytes=STATES_KEPT * state_bytes + INPUTS_KEPT * input_bytes)

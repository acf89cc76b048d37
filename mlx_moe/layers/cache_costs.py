"""CacheCosts: the memory of caches. Imports no MLX, because plans are made without it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

STATES_KEPT = 8
"""States that a layer with a recurrent state keeps of one sequence, the newest included."""

INPUTS_KEPT = 24
"""Newest single positions whose inputs it keeps, from which it folds the states between them again."""

GROWTH = 256
"""Number of positions by which the buffers of caches grow at a time."""

KEPT_ROWS = 8192
"""Positions whose results a stage keeps, of all sequences, so that after a loss it need not compute them again."""

REACH = 3584
"""Positions before its window that a WindowCache keeps at least, for rewinds: longer than most answers, which a chat
template may shorten afterwards, and with a window of 128 no more memory than 4,096 positions.
"""


@dataclass(frozen=True, slots=True)
class CacheCosts:
    """Bytes of one sequence's caches: a fixed part, a part for each position, and windows.

    `windows` are pairs: the number of positions that a window keeps at most, and the bytes of each.
    """

    fixed_bytes: int = 0
    bytes_per_position: int = 0
    windows: tuple[tuple[int, int], ...] = ()

    def __add__(self, other: CacheCosts) -> CacheCosts:
        """Return the sum of both costs."""
        windows: Counter[int] = Counter()
        for rows, nbytes in (*self.windows, *other.windows):
            windows[rows] += nbytes
        return CacheCosts(
            self.fixed_bytes + other.fixed_bytes,
            self.bytes_per_position + other.bytes_per_position,
            tuple(sorted(windows.items())),
        )

    @property
    def full_bytes_per_position(self) -> int:
        """Bytes of a position that all windows still keep."""
        return self.bytes_per_position + sum(nbytes for _, nbytes in self.windows)

    @property
    def fixed_positions(self) -> int:
        """Number of positions that take as many bytes as the fixed part; 0 if positions take none."""
        return -(-self.fixed_bytes // per_position) if (per_position := self.full_bytes_per_position) else 0

    def within(self, context: int) -> CacheCosts:
        """Return the costs if a sequence may have `context` positions: windows that it overflows are a fixed part."""
        full = [(rows, nbytes) for rows, nbytes in self.windows if rows < context]
        return replace(
            self,
            fixed_bytes=self.fixed_bytes + sum(rows * nbytes for rows, nbytes in full),
            windows=tuple(window for window in self.windows if window not in full),
        )

    def nbytes(self, positions: int) -> int:
        """Return the bytes for a number of positions."""
        windows = sum(min(rows, positions) * nbytes for rows, nbytes in self.windows)
        return self.fixed_bytes + positions * self.bytes_per_position + windows


def recurrent(state_bytes: int, input_bytes: int) -> CacheCosts:
    """Return the most that a layer keeps of a recurrent state, given the bytes of one and of a position's inputs."""
    return CacheCosts(fixed_bytes=STATES_KEPT * state_bytes + INPUTS_KEPT * input_bytes)


def window_rows(window: int) -> int:
    """Return the number of positions that a WindowCache keeps at most, unless one frame has more."""
    return (-(-window // GROWTH) + REACH // GROWTH + 1) * GROWTH

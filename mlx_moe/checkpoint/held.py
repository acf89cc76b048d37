"""Held: arrays in memory by their place in the files, so that another load of the same files need not read them.

Stacks of experts are reused by row: rows that stay are copied into the wanted stack.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_moe.checkpoint.stored_parameter import StoredArray

Held = dict[StoredArray, mx.array]


@dataclass(frozen=True, slots=True)
class Restacked:
    """A wanted stack, some rows of which are in the stack `source`."""

    wanted: StoredArray
    source: StoredArray

    @property
    def missing(self) -> StoredArray:
        """The rows that must be read."""
        kept = set(self.source.pieces)
        pieces = tuple(piece for piece in self.wanted.pieces if piece not in kept)
        return replace(self.wanted, shape=(len(pieces), *self.wanted.shape[1:]), pieces=pieces)

    def stack(self, source: mx.array, read: mx.array | None) -> mx.array:
        """Return the wanted stack, from rows of `source` and the rows that were read (None: no row is missing)."""
        if read is None:
            places = {piece: i for i, piece in enumerate(self.source.pieces)}
            stacked = source[mx.array([places[piece] for piece in self.wanted.pieces])]
        else:
            rows = {piece: source[i : i + 1] for i, piece in enumerate(self.source.pieces)}
            rows |= {piece: read[i : i + 1] for i, piece in enumerate(self.missing.pieces)}
            stacked = mx.concatenate([rows[piece] for piece in self.wanted.pieces])
        mx.eval(stacked)
        return stacked


def release(held: Held, wanted: Collection[StoredArray]) -> list[Restacked]:
    """Free what the wanted arrays do not need; return those that need other rows, shrinking ones first."""
    spare = {piece: stored for stored in held if stored not in wanted and _is_stack(stored) for piece in stored.pieces}
    restacked: dict[StoredArray, Restacked] = {}
    for stored in wanted:
        sources = {spare[piece] for piece in stored.pieces if piece in spare} if _is_stack(stored) else set()
        for source in sources - restacked.keys():
            if (source.dtype, source.shape[1:]) == (stored.dtype, stored.shape[1:]) and stored not in held:
                restacked[source] = Restacked(stored, source)
                break
    for stored in list(held):
        if stored not in wanted and stored not in restacked:
            del held[stored]
    return sorted(restacked.values(), key=lambda r: bool(r.missing.pieces))


def _is_stack(stored: StoredArray) -> bool:
    """Whether each row over the first axis is a piece of its own."""
    return len(stored.pieces) == stored.shape[0]

"""Dispatch: which owner computes which of a chunk's chosen (position, expert) pairs, and how their rows come together.

Knows nothing of how pairs and rows travel. Shapes: L positions, D hidden_size, K experts chosen for each position,
n pairs of one owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]

SORT_FROM = 64
"""From this many chosen pairs of a chunk on, they are sorted by expert, so that each expert is read once."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs that one owner computes: row positions[i] of the chunk by expert experts[i], each `[n]`.

    `by_expert` says that they are sorted by expert. The whole chunk's number of pairs decides it, not the owner's
    share: all owners then run the kernel that one owner of everything would.
    """

    positions: Integers
    experts: Integers
    by_expert: bool


@dataclass(frozen=True, slots=True)
class Split:
    """A chunk's pairs by owner; owners without a chosen expert are left out."""

    pairs: Mapping[int, Pairs]
    shape: tuple[int, int]
    order: Integers

    def join(self, rows: Mapping[int, mx.array]) -> mx.array:
        """Return the owners' rows, each `[n, D]` in the order of its pairs, as `[L, K, D]`."""
        joined = mx.concatenate([rows[owner] for owner in self.pairs])
        return joined[mx.array(self.order)].reshape(*self.shape, -1)


class Dispatch:
    """One layer's experts by owner: `owners[expert]` is a number of the caller's choice."""

    def __init__(self, owners: Mapping[int, int]) -> None:
        self._owner_of = np.array([owners[expert] for expert in range(len(owners))], dtype=np.int32)

    def split(self, indices: Integers) -> Split:
        """Divide the pairs that the router's indices `[L, K]` are."""
        n_positions, k = indices.shape
        chosen = indices.reshape(-1)
        owner_of = self._owner_of[chosen]  # [L*K]
        by_expert = chosen.size >= SORT_FROM
        order = np.lexsort((chosen, owner_of)) if by_expert else np.argsort(owner_of, kind="stable")
        owners, starts = np.unique(owner_of[order], return_index=True)
        pairs = {
            int(owner): Pairs(part // k, chosen[part], by_expert)
            for owner, part in zip(owners, np.split(order, starts[1:]), strict=True)
        }
        return Split(pairs, (n_positions, k), np.argsort(order).astype(np.int32))

"""Dispatch: divides a chunk's chosen (position, expert) pairs among the experts' owners, and joins the resulting rows.

Knows nothing about how pairs and rows travel. Shapes: L positions, D hidden_size, K experts chosen for each position, n
pairs of one owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_moe.layers.batches import TOGETHER

Integers = np.ndarray[Any, np.dtype[np.integer[Any]]]

SORT_FROM = 64
"""Number of pairs in a chunk from which the kernel for pairs that are sorted by expert may be used."""


def is_by_expert(n_positions: int, n_pairs: int) -> bool:
    """Whether a chunk's pairs are computed by the kernel for sorted ones, in which a pair's bits depend on others."""
    return n_positions > TOGETHER and n_pairs >= SORT_FROM


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs that one owner computes: row positions[i] of the chunk by expert experts[i]; both are `[n]`.

    They are sorted by expert, so that each is read once. `by_expert`: the kernel for sorted pairs computes them. This
    is decided by the whole chunk, so that every owner runs the kernel that a single owner of all experts would run.
    """

    positions: Integers
    experts: Integers
    by_expert: bool


@dataclass(frozen=True, slots=True)
class Split:
    """A chunk's pairs by owner, without owners that have no chosen expert.

    `shape` is (L, K); `order` maps each pair in the router's order to its row among the joined rows, `[L * K]`.
    """

    pairs: Mapping[int, Pairs]
    shape: tuple[int, int]
    order: Integers

    def join(self, rows: Mapping[int, mx.array]) -> mx.array:
        """Join the owners' rows, each `[n, D]` in the order of its pairs, to `[L, K, D]`."""
        joined = mx.concatenate([rows[owner] for owner in self.pairs])
        return joined[mx.array(self.order)].reshape(*self.shape, -1)


class Dispatch:
    """The owners of one layer's experts: `owners[expert]` is a number that the caller chooses."""

    def __init__(self, owners: Mapping[int, int]) -> None:
        self._owner_of = np.array([owners[expert] for expert in range(len(owners))], dtype=np.int32)

    def split(self, indices: Integers) -> Split:
        """Divide the pairs given by the router's indices `[L, K]`."""
        n_positions, k = indices.shape
        chosen = indices.reshape(-1)
        owner_of = self._owner_of[chosen]  # [L*K]
        by_expert = is_by_expert(n_positions, chosen.size)
        order = np.lexsort((chosen, owner_of))
        owners, starts = np.unique(owner_of[order], return_index=True)
        pairs = {
            int(owner): Pairs(part // k, chosen[part], by_expert)
            for owner, part in zip(owners, np.split(order, starts[1:]), strict=True)
        }
        return Split(pairs, (n_positions, k), np.argsort(order).astype(np.int32))

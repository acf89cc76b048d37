"""Held: arrays in memory by their origin in the files, so that another load of the same files need not read them.

Stacks of experts are reused by row: rows that stay are copied into the wanted stack.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_moe.checkpoint.form import Form
from mlx_moe.checkpoint.parameter import Layout
from mlx_moe.checkpoint.stored_parameter import Origin
from mlx_moe.config import QuantizationConfig

Arrays = tuple[mx.array, ...]
"""A plain array alone, or the words, scales and (affine) biases of a quantized matrix."""

Held = dict[Origin, Arrays]


@dataclass(frozen=True, slots=True)
class Restacked:
    """A wanted stack, some matrices of which are in the stack `source`."""

    wanted: Origin
    source: Origin

    @property
    def missing(self) -> Origin | None:
        """The matrices that must be read; None: no matrix is."""
        kept = set(self.source.layout.matrices)
        missing = [matrix for matrix in self.wanted.layout.matrices if matrix not in kept]
        shape = (len(missing), *self.wanted.layout.shape[1:])
        sources = tuple(source for matrix in missing for source in matrix.sources)
        layout = replace(self.wanted.layout, shape=shape, sources=sources)
        return replace(self.wanted, layout=layout) if missing else None

    def stack(self, source: Arrays, read: Arrays | None) -> Arrays:
        """Return the wanted stack, of matrices of `source` and of the missing ones (None: no matrix is missing)."""
        places = {matrix: i for i, matrix in enumerate(self.source.layout.matrices)}
        wanted = self.wanted.layout.matrices
        if read is None or self.missing is None:
            chosen = mx.array([places[matrix] for matrix in wanted])
            stacked = tuple(array[chosen] for array in source)
        else:
            added = {matrix: i for i, matrix in enumerate(self.missing.layout.matrices)}
            stacked = tuple(
                mx.concatenate(
                    [new[added[m] : added[m] + 1] if m in added else old[places[m] : places[m] + 1] for m in wanted]
                )
                for old, new in zip(source, read, strict=True)
            )
        mx.eval(stacked)
        return stacked


def release(held: Held, wanted: Collection[Origin]) -> list[Restacked]:
    """Free what the wanted arrays do not need; return those that need other matrices, shrinking stacks first."""
    spare = {
        _row(matrix, origin): origin for origin in held if origin not in wanted for matrix in origin.layout.matrices
    }
    restacked: dict[Origin, Restacked] = {}
    for origin in wanted:
        rows = [_row(matrix, origin) for matrix in origin.layout.matrices]
        sources = {spare[row] for row in rows if row in spare}
        for source in sources - restacked.keys():
            if source.layout.shape[1:] == origin.layout.shape[1:] and origin not in held:
                restacked[source] = Restacked(origin, source)
                break
    for origin in list(held):
        if origin not in wanted and origin not in restacked:
            del held[origin]
    return sorted(restacked.values(), key=lambda r: r.missing is not None)


def _row(matrix: Layout, origin: Origin) -> tuple[Layout, Form, QuantizationConfig | None]:
    """Return what says that a matrix is the same in memory."""
    return matrix, origin.form, origin.target

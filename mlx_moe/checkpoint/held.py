"""Held: arrays in memory by their origin in the files, so that another load of the same files need not read them.

Stacks of experts are reused by row: rows that stay are copied into the wanted stack.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import mlx.core as mx

from mlx_moe.checkpoint.form import Form
from mlx_moe.checkpoint.parameter import Source
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
        kept = set(_matrices(self.source))
        sources = tuple(matrix for matrix in _matrices(self.wanted) if matrix not in kept)
        shape = (len(sources), *self.wanted.layout.shape[1:])
        layout = replace(self.wanted.layout, shape=shape, sources=sources)
        return replace(self.wanted, layout=layout) if sources else None

    def stack(self, source: Arrays, read: Arrays | None) -> Arrays:
        """Return the wanted stack, of matrices of `source` and of the missing ones (None: no matrix is missing)."""
        places = {matrix: i for i, matrix in enumerate(_matrices(self.source))}
        wanted = _matrices(self.wanted)
        if read is None or self.missing is None:
            chosen = mx.array([places[matrix] for matrix in wanted])
            stacked = tuple(array[chosen] for array in source)
        else:
            added = {matrix: i for i, matrix in enumerate(_matrices(self.missing))}
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
        _row(matrix, origin): origin
        for origin in held
        if origin not in wanted and _is_stack(origin)
        for matrix in _matrices(origin)
    }
    restacked: dict[Origin, Restacked] = {}
    for origin in wanted:
        rows = [_row(matrix, origin) for matrix in _matrices(origin)] if _is_stack(origin) else []
        sources = {spare[row] for row in rows if row in spare}
        for source in sources - restacked.keys():
            if source.layout.shape[1:] == origin.layout.shape[1:] and origin not in held:
                restacked[source] = Restacked(origin, source)
                break
    for origin in list(held):
        if origin not in wanted and origin not in restacked:
            del held[origin]
    return sorted(restacked.values(), key=lambda r: r.missing is not None)


def _is_stack(origin: Origin) -> bool:
    """Whether each matrix over the first axis is a run of rows of its own."""
    return len(origin.layout.runs) == origin.layout.shape[0]


def _matrices(origin: Origin) -> list[Source]:
    """Return the runs of rows of a stack, each as a source of its own."""
    return [replace(source, rows=(rows,)) for source, rows in origin.layout.runs]


def _row(matrix: Source, origin: Origin) -> tuple[Source, Form, QuantizationConfig | None]:
    """Return what says that a matrix is the same in memory."""
    return matrix, origin.form, origin.target

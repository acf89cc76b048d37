"""Weight: a loaded matrix, plain or quantized, and its three operations.

In a product of up to TOGETHER rows each row has the bits that it has alone, so that positions of different answers can
be computed together.
Shapes: L rows of x, E matrices in a stack, K of them chosen for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_moe.config import QuantizationConfig
from mlx_moe.layers.batches import TOGETHER
from mlx_moe.layers.norm import Norm, norm

DEQUANTIZE_FROM = 32
"""Rows from which, on the CPU backend, unpacking a matrix once and multiplying floats is faster (1.35 times)."""

MAX_UNPACKED_BYTES = 8 << 20
"""Matrices that are larger when unpacked stay packed, to save memory."""


class Weight(Protocol):
    """A matrix `[..., out, in]`."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""

    def matmul(self, x: mx.array, *, transpose: bool = True) -> mx.array:
        """Return x @ W^T `[..., out]`, or x @ W `[..., in]` when not `transpose`; leading axes broadcast."""

    def gather_matmul(
        self, x: mx.array, indices: mx.array, *, sorted_indices: bool = False, transpose: bool = True
    ) -> mx.array:
        """Multiply x `[..., 1, in]` by the matrices chosen by `indices` from a stack `[E, out, in]`.

        If not `transpose`, the stack is `[E, in, out]`.
        """

    def rows(self, indices: mx.array) -> mx.array:
        """Return the rows `[L, in]` at `indices` `[L]`."""


class DenseWeight:
    """A plain matrix `[..., out, in]`."""

    def __init__(self, array: mx.array) -> None:
        self._array = array
        self._transposed = array.swapaxes(-1, -2)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._array.nbytes

    def matmul(self, x: mx.array, *, transpose: bool = True) -> mx.array:
        """See Weight."""
        array = self._transposed if transpose else self._array
        return _by_groups(lambda rows: rows @ array, x, (array.shape, transpose))

    def gather_matmul(
        self, x: mx.array, indices: mx.array, *, sorted_indices: bool = False, transpose: bool = True
    ) -> mx.array:
        """See Weight."""
        stack = self._transposed if transpose else self._array
        return mx.gather_mm(x, stack, rhs_indices=indices, sorted_indices=sorted_indices)

    def rows(self, indices: mx.array) -> mx.array:
        """See Weight."""
        return self._array[indices]


class QuantizedWeight:
    """A matrix packed along its last axis: `packed` uint32, and for each group a scale and (affine) a bias."""

    def __init__(self, packed: mx.array, scales: mx.array, biases: mx.array | None, config: QuantizationConfig) -> None:
        self._packed = packed
        self._scales = scales
        self._biases = biases
        self._config = config
        unpacked_bytes = packed.nbytes * 8 // config.bits * mx.float32.size
        may_unpack = mx.default_device() == mx.cpu and unpacked_bytes <= MAX_UNPACKED_BYTES
        self._unpack_from = DEQUANTIZE_FROM if may_unpack else None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self._packed.nbytes + self._scales.nbytes + (0 if self._biases is None else self._biases.nbytes)

    def matmul(self, x: mx.array, *, transpose: bool = True) -> mx.array:
        """See Weight."""
        c = self._config
        if self._unpack_from is not None and x.shape[-2] >= self._unpack_from:
            return DenseWeight(self._dequantized(self._packed, self._scales, self._biases)).matmul(
                x, transpose=transpose
            )

        def multiply(rows: mx.array) -> mx.array:
            return mx.quantized_matmul(
                rows,
                self._packed,
                self._scales,
                self._biases,
                transpose=transpose,
                group_size=c.group_size,
                bits=c.bits,
                mode=c.mode,
            )

        return _by_groups(multiply, x, (self._packed.shape, transpose, c))

    def gather_matmul(
        self, x: mx.array, indices: mx.array, *, sorted_indices: bool = False, transpose: bool = True
    ) -> mx.array:
        """See Weight."""
        c = self._config
        return mx.gather_qmm(
            x,
            self._packed,
            self._scales,
            self._biases,
            rhs_indices=indices,
            transpose=transpose,
            group_size=c.group_size,
            bits=c.bits,
            mode=c.mode,
            sorted_indices=sorted_indices,
        )

    def rows(self, indices: mx.array) -> mx.array:
        """See Weight."""
        biases = None if self._biases is None else self._biases[indices]
        return self._dequantized(self._packed[indices], self._scales[indices], biases)

    def _dequantized(self, packed: mx.array, scales: mx.array, biases: mx.array | None) -> mx.array:
        c = self._config
        return mx.dequantize(packed, scales, biases, group_size=c.group_size, bits=c.bits, mode=c.mode)


_ROWS_OF_GROUP: dict[Hashable, int] = {}
"""Most rows of a product in which each has the bits that it has alone, by what chooses the kernel."""


def _by_groups(multiply: Callable[[mx.array], mx.array], x: mx.array, weight: Hashable) -> mx.array:
    """Multiply x `[..., L, in]`. With 2 to TOGETHER rows, in groups in which each has the bits that it has alone.

    `weight` describes the matrix. The CPU backend computes every row alone; elsewhere the largest group is tried out
    once, since the kernel depends on the number of rows.
    """
    n_rows = x.shape[-2]
    if not 1 < n_rows <= TOGETHER or mx.default_device() == mx.cpu:
        return multiply(x)
    key = weight, x.shape[:-2], x.dtype
    if key not in _ROWS_OF_GROUP:
        tried = mx.random.normal((*x.shape[:-2], TOGETHER, x.shape[-1]), x.dtype, key=mx.random.key(0))
        _ROWS_OF_GROUP[key] = rows_of_group(multiply, tried)
    size = _ROWS_OF_GROUP[key]
    if n_rows <= size:
        return multiply(x)
    return _joined(multiply, x, size)


def rows_of_group(multiply: Callable[[mx.array], mx.array], x: mx.array) -> int:
    """Return how many rows of x `[..., L, in]` can be multiplied at a time with the bits that each has alone.

    The result is L, or L divided by a power of two.
    """
    size, alone = x.shape[-2], _joined(multiply, x, 1)
    while size > 1 and not mx.array_equal(_joined(multiply, x, size), alone).item():
        size //= 2
    return size


def _joined(multiply: Callable[[mx.array], mx.array], x: mx.array, size: int) -> mx.array:
    """Multiply x `[..., L, in]` by `size` rows at a time."""
    starts = list(range(size, x.shape[-2], size))
    return mx.concatenate([multiply(rows) for rows in mx.split(x, starts, axis=-2)], axis=-2)


@dataclass(frozen=True, slots=True)
class Linear:
    """x @ W^T, plus a bias if the model has one."""

    weight: Weight
    bias: mx.array | None = None

    def __call__(self, x: mx.array) -> mx.array:
        """Map x `[..., in]` to `[..., out]`."""
        y = self.weight.matmul(x)
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True, slots=True)
class HeadProjection:
    """One matrix per head: `[H, out, in]`, or `[H, in, out]` if it is stored `transposed`."""

    weight: Weight
    transposed: bool

    def apply(self, x: mx.array) -> mx.array:
        """Map x `[H or 1, L, in]` to `[H, L, out]`."""
        return self.weight.matmul(x, transpose=not self.transposed)

    def apply_transposed(self, x: mx.array) -> mx.array:
        """Map x `[H or 1, L, out]` to `[H, L, in]`."""
        return self.weight.matmul(x, transpose=self.transposed)


@dataclass(frozen=True, slots=True)
class LoadedWeight:
    """A matrix as it is stored; see Layout for `transposed` and `alternating`."""

    weight: Weight
    transposed: bool = False
    alternating: bool = False

    def gather_matmul(self, x: mx.array, indices: mx.array, *, sorted_indices: bool = False) -> mx.array:
        """Multiply x `[..., 1, in]` by the matrices chosen by `indices` from a stack of any order."""
        return self.weight.gather_matmul(x, indices, sorted_indices=sorted_indices, transpose=not self.transposed)


@dataclass(frozen=True, slots=True)
class LoadedParameters:
    """Loaded parameters by canonical name, with names relative to `path`."""

    weights: Mapping[str, LoadedWeight]
    vectors: Mapping[str, mx.array]
    path: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters in memory."""
        return sum(w.weight.nbytes for w in self.weights.values()) + sum(v.nbytes for v in self.vectors.values())

    def scope(self, name: str) -> LoadedParameters:
        """Return the same parameters, with names relative to a path below this one."""
        return LoadedParameters(self.weights, self.vectors, f"{self.path}{name}.")

    def has(self, name: str) -> bool:
        """Whether a matrix with this name was loaded."""
        return self.path + name in self.weights

    def weight(self, name: str) -> Weight:
        """Return a matrix."""
        return self.weights[self.path + name].weight

    def stored(self, name: str) -> LoadedWeight:
        """Return a matrix with the order in which it is stored."""
        return self.weights[self.path + name]

    def vector(self, name: str) -> mx.array:
        """Return a norm's weight or a bias."""
        return self.vectors[self.path + name]

    def find_vector(self, name: str) -> mx.array | None:
        """Return a norm's weight or a bias; None if it was not loaded."""
        return self.vectors.get(self.path + name)

    def norm(self, name: str, eps: float) -> Norm:
        """Return a norm, with its bias if one was loaded."""
        return norm(self.vector(f"{name}.weight"), self.find_vector(f"{name}.bias"), eps)

    def linear(self, name: str) -> Linear:
        """Return a linear map, with its bias if one was loaded."""
        return Linear(self.weight(name), self.find_vector(f"{name}.bias"))

    def head_projection(self, name: str) -> HeadProjection:
        """Return one linear map per head."""
        stored = self.weights[self.path + name]
        return HeadProjection(stored.weight, stored.transposed)

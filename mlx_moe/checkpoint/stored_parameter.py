"""StoredParameter: where a checkpoint stores a parameter, as pieces of tensors, found by reading only headers.

Imports no MLX.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mlx_moe.checkpoint.checkpoint import Checkpoint, Piece
from mlx_moe.checkpoint.dtype import FLOATS, Dtype
from mlx_moe.checkpoint.parameter import Layout, Parameter
from mlx_moe.checkpoint.quantization import is_packed, quantization_of, sibling, unreadable
from mlx_moe.config import QuantizationConfig
from mlx_moe.errors import CheckpointError, UnsupportedModelError


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array as stored in the files: the pieces, in order, fill an array of `shape` and `dtype`."""

    dtype: Dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(piece.nbytes for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class StoredParameter:
    """A parameter found in a checkpoint: a plain array, or a quantized matrix with its scales and biases."""

    parameter: Parameter
    transposed: bool
    weight: StoredArray
    scales: StoredArray | None = None
    biases: StoredArray | None = None
    quantization: QuantizationConfig | None = None

    @property
    def arrays(self) -> list[StoredArray]:
        """Its weight, and scales and biases if it has them."""
        return [array for array in (self.weight, self.scales, self.biases) if array is not None]

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(array.nbytes for array in self.arrays)

    def memory_bytes(self, float_bytes: int) -> int:
        """Return its bytes in memory if floats of `float_bytes` are used for computing."""
        kept_bytes = Dtype.F32.item_bytes if self.parameter.float32 else float_bytes
        return sum(
            array.nbytes // array.dtype.item_bytes * kept_bytes if array.dtype in FLOATS else array.nbytes
            for array in self.arrays
        )


def find(checkpoint: Checkpoint, parameters: Iterable[Parameter]) -> list[StoredParameter]:
    """Find parameters in a checkpoint by reading only its headers.

    Raises:
        CheckpointError: a parameter is missing, or its shape contradicts config.json.
        UnsupportedModelError: a parameter's quantization or dtype is not supported.
    """
    return [_find(checkpoint, parameter) for parameter in parameters]


def quantization_of_most(stored: Iterable[StoredParameter]) -> QuantizationConfig | None:
    """Return the quantization of the matrices that has the most bytes; None: not quantized."""
    nbytes: Counter[QuantizationConfig | None] = Counter()
    for s in stored:
        if s.parameter.matrix:
            nbytes[s.quantization] += s.nbytes
    return max(nbytes, key=lambda how: nbytes[how], default=None)


def stored_dtype(stored: Iterable[StoredParameter]) -> Dtype:
    """Return the dtype of a checkpoint's norms, in which it is computed unless another one is faster."""
    for s in stored:
        if not s.parameter.matrix and not s.parameter.float32:
            return s.weight.dtype
    return Dtype.F32


def _find(checkpoint: Checkpoint, parameter: Parameter) -> StoredParameter:
    layout = next((lo for lo in parameter.layouts if lo.sources[0].tensor in checkpoint), None)
    if layout is None:
        raise unreadable(checkpoint, parameter)
    first = layout.sources[0].tensor
    if parameter.matrix and is_packed(checkpoint, first):
        return _find_quantized(checkpoint, parameter, layout)
    dtype = checkpoint.info(first).dtype
    if dtype not in FLOATS:
        raise unreadable(checkpoint, parameter)
    weight = _stack(checkpoint, layout, layout.shape[-1], Dtype[dtype], None)
    return StoredParameter(parameter, layout.transposed, weight)


def _find_quantized(checkpoint: Checkpoint, parameter: Parameter, layout: Layout) -> StoredParameter:
    first = layout.sources[0].tensor
    quantization = quantization_of(checkpoint, layout.sources[0])
    for source in layout.sources[1:]:
        if source.tensor not in checkpoint:
            raise unreadable(checkpoint, parameter)
        if not is_packed(checkpoint, source.tensor) or quantization_of(checkpoint, source) != quantization:
            raise UnsupportedModelError(
                f"{checkpoint.directory}: {source.tensor} is not quantized as {first}, {quantization}; "
                f"experts of one stack must agree"
            )
    in_features = layout.shape[-1]
    n_groups = in_features // quantization.group_size
    scales_dtype = Dtype[checkpoint.info(sibling(first, "scales")).dtype]
    return StoredParameter(
        parameter,
        layout.transposed,
        _stack(checkpoint, layout, in_features * quantization.bits // 32, Dtype.U32, None),
        _stack(checkpoint, layout, n_groups, scales_dtype, "scales"),
        _stack(checkpoint, layout, n_groups, scales_dtype, "biases") if quantization.mode == "affine" else None,
        quantization,
    )


def _stack(checkpoint: Checkpoint, layout: Layout, width: int, dtype: Dtype, part: str | None) -> StoredArray:
    """Return the array that a layout's sources (or their scales or biases) make, rows of `width` numbers."""
    pieces: list[Piece] = []
    for source in layout.sources:
        name = source.tensor if part is None else sibling(source.tensor, part)
        if name not in checkpoint:
            raise checkpoint.absence(name)
        info = checkpoint.info(name)
        if info.dtype != dtype or info.shape != (*source.shape[:-1], width):
            raise CheckpointError(
                f"{info.path}: tensor {name} is {info.dtype} {list(info.shape)}, config.json asks for "
                f"{dtype} {[*source.shape[:-1], width]}"
            )
        row_bytes = width * dtype.item_bytes
        pieces += [Piece(name, rows.start * row_bytes, len(rows) * row_bytes) for rows in source.rows]
    return StoredArray(dtype, (*layout.shape[:-1], width), tuple(pieces))

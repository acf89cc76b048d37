"""Form: in which tensors a checkpoint stores a matrix, and which bytes of them are some of its rows.

Knows names, dtypes and shapes; opens no files and imports no MLX. `decoded` turns the bytes into arrays.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from mlx_moe.checkpoint.checkpoint import Piece
from mlx_moe.checkpoint.dtype import FLOATS, Dtype
from mlx_moe.checkpoint.modes import WORD_BITS, is_supported, quantization_text
from mlx_moe.checkpoint.parameter import Layout, Source
from mlx_moe.config import QuantizationConfig


@dataclass(frozen=True, slots=True)
class Part:
    """One of the tensors that store a matrix: its name, the dtype and shape that it must have, and how it is read."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    read_as: Dtype


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


class Form(Protocol):
    """How a matrix (or a vector) is stored."""

    @property
    def quantization(self) -> QuantizationConfig | None:
        """Its quantization in memory if it is not quantized anew; None: floats."""

    @property
    def is_decoded(self) -> bool:
        """Whether its arrays in memory are others than the stored ones, apart from casts of floats."""

    @property
    def float_dtype(self) -> Dtype | None:
        """The dtype of its floats, scales included; None: it has none that computing could use."""

    @property
    def text(self) -> str:
        """The form in a few words."""

    def parts(self, source: Source) -> tuple[Part, ...]:
        """Return the tensors that store a source, the largest first."""

    def arrays(self, layout: Layout) -> tuple[StoredArray, ...]:
        """Return what must be read for a layout's rows, an array for each part."""


@dataclass(frozen=True, slots=True)
class Floats:
    """Plain numbers."""

    dtype: Dtype

    @property
    def quantization(self) -> None:
        """See Form."""
        return

    @property
    def is_decoded(self) -> bool:
        """See Form."""
        return False

    @property
    def float_dtype(self) -> Dtype:
        """See Form."""
        return self.dtype

    @property
    def text(self) -> str:
        """See Form."""
        return str(self.dtype)

    def parts(self, source: Source) -> tuple[Part, ...]:
        """See Form."""
        return (Part(source.tensor, self.dtype, source.shape, self.dtype),)

    def arrays(self, layout: Layout) -> tuple[StoredArray, ...]:
        """See Form."""
        return _row_by_row(layout, self.parts)


@dataclass(frozen=True, slots=True)
class Packed:
    """MLX's quantized matrices: words, `scales`, and `biases` if they are affine."""

    quantization: QuantizationConfig
    scales_dtype: Dtype

    @property
    def is_decoded(self) -> bool:
        """See Form."""
        return False

    @property
    def float_dtype(self) -> Dtype | None:
        """See Form."""
        return self.scales_dtype if self.scales_dtype in FLOATS else None

    @property
    def text(self) -> str:
        """See Form."""
        return quantization_text(self.quantization)

    def parts(self, source: Source) -> tuple[Part, ...]:
        """See Form."""
        q, rows, in_features = self.quantization, source.shape[:-1], source.shape[-1]
        per_group = ("scales", "biases") if q.mode == "affine" else ("scales",)
        groups = (*rows, in_features // q.group_size)
        return (
            Part(source.tensor, Dtype.U32, (*rows, in_features * q.bits // WORD_BITS), Dtype.U32),
            *(Part(sibling(source.tensor, name), self.scales_dtype, groups, self.scales_dtype) for name in per_group),
        )

    def arrays(self, layout: Layout) -> tuple[StoredArray, ...]:
        """See Form."""
        return _row_by_row(layout, self.parts)


@dataclass(frozen=True, slots=True)
class MXFP4Blocks:
    """gpt-oss' `…_blocks`, 16 bytes for 32 inputs, and `…_scales`: the bytes are those of MLX's mxfp4.

    In `gate_up_proj` the rows of gate and up alternate, gate first.
    """

    @property
    def quantization(self) -> QuantizationConfig:
        """See Form."""
        return QuantizationConfig(32, 4, "mxfp4")

    @property
    def is_decoded(self) -> bool:
        """See Form."""
        return False

    @property
    def float_dtype(self) -> None:
        """See Form."""
        return

    @property
    def text(self) -> str:
        """See Form."""
        return quantization_text(self.quantization)

    def parts(self, source: Source) -> tuple[Part, ...]:
        """See Form."""
        blocks = (*source.shape[:-1], source.shape[-1] // 32)
        scales = f"{source.tensor.removesuffix(BLOCKS)}_scales"
        return (
            Part(source.tensor, Dtype.U8, (*blocks, 16), Dtype.U32),
            Part(scales, Dtype.U8, blocks, Dtype.U8),
        )

    def arrays(self, layout: Layout) -> tuple[StoredArray, ...]:
        """See Form."""
        return _row_by_row(layout, self.parts)


@dataclass(frozen=True, slots=True)
class PackedInt4:
    """compressed-tensors' symmetric int4: (nibble - 8) * scale. Its words are those of MLX's affine 4 bit.

    Groups of a size that MLX does not have are decoded to floats.
    """

    group_size: int
    scales_dtype: Dtype

    @property
    def quantization(self) -> QuantizationConfig | None:
        """See Form."""
        affine = QuantizationConfig(self.group_size, 4)
        return affine if is_supported(affine) else None

    @property
    def is_decoded(self) -> bool:
        """See Form."""
        return True

    @property
    def float_dtype(self) -> Dtype:
        """See Form."""
        return self.scales_dtype

    @property
    def text(self) -> str:
        """See Form."""
        return f"int4 in groups of {self.group_size} (compressed-tensors)"

    def parts(self, source: Source) -> tuple[Part, ...]:
        """See Form."""
        rows, in_features = source.shape[:-1], source.shape[-1]
        groups = (*rows, in_features // self.group_size)
        return (
            Part(f"{source.tensor}_packed", Dtype.I32, (*rows, in_features * 4 // WORD_BITS), Dtype.U32),
            Part(f"{source.tensor}_scale", self.scales_dtype, groups, self.scales_dtype),
        )

    def arrays(self, layout: Layout) -> tuple[StoredArray, ...]:
        """See Form."""
        return _row_by_row(layout, self.parts)


@dataclass(frozen=True, slots=True)
class Float8Blocks:
    """DeepSeek's FP8: E4M3 numbers times the `weight_scale_inv` of their block of `rows` x `columns`.

    The last blocks of a matrix may be smaller. Source: DeepSeek-V3, inference/kernel.py, weight_dequant.
    """

    rows: int
    columns: int
    scales_dtype: Dtype

    @property
    def quantization(self) -> None:
        """See Form."""
        return

    @property
    def is_decoded(self) -> bool:
        """See Form."""
        return True

    @property
    def float_dtype(self) -> None:
        """See Form."""
        return

    @property
    def text(self) -> str:
        """See Form."""
        return f"FP8 in blocks of {self.rows} x {self.columns}"

    def parts(self, source: Source) -> tuple[Part, ...]:
        """See Form."""
        *stack, n_rows, in_features = source.shape
        blocks = (*stack, -(-n_rows // self.rows), -(-in_features // self.columns))
        return (
            Part(source.tensor, Dtype.F8_E4M3, source.shape, Dtype.U8),
            Part(f"{source.tensor}_scale_inv", self.scales_dtype, blocks, self.scales_dtype),
        )

    def arrays(self, layout: Layout) -> tuple[StoredArray, ...]:
        """See Form. The scales are `[..., blocks of rows, blocks of columns]`; see `rows_of_scales`."""
        n_columns = -(-layout.shape[-1] // self.columns)
        row_bytes = n_columns * self.scales_dtype.item_bytes
        pieces = []
        for source, matrix, rows in _matrix_rows(layout):
            first, end = rows.start // self.rows, -(-rows.stop // self.rows)
            start = matrix * -(-source.shape[-2] // self.rows) + first
            pieces.append(Piece(f"{source.tensor}_scale_inv", start * row_bytes, (end - first) * row_bytes))
        n_blocks, stack = sum(piece.nbytes for piece in pieces) // row_bytes, layout.shape[:-2]
        if n_blocks % math.prod(stack):  # heads whose rows begin anywhere in a block
            stack = ()
        (numbers,) = _row_by_row(layout, lambda source: self.parts(source)[:1])
        return numbers, StoredArray(self.scales_dtype, (*stack, n_blocks // math.prod(stack), n_columns), tuple(pieces))

    def rows_of_scales(self, layout: Layout) -> list[int]:
        """Return for each row of the array of scales how many of the layout's rows it scales."""
        counts = []
        for _, _, rows in _matrix_rows(layout):
            edges = [rows.start, *range((rows.start // self.rows + 1) * self.rows, rows.stop, self.rows), rows.stop]
            counts += [end - start for start, end in itertools.pairwise(edges)]
        return counts


BLOCKS = "_blocks"
"""The suffix of gpt-oss' packed matrices."""


def sibling(tensor: str, name: str) -> str:
    """Return the name of the tensor with a matrix's `scales` or `biases`."""
    return f"{tensor.removesuffix('.weight')}.{name}"


def _row_by_row(layout: Layout, parts: Callable[[Source], tuple[Part, ...]]) -> tuple[StoredArray, ...]:
    """Return the layout's rows of each part, where every part has a row for each row of the matrix."""
    arrays = []
    for number, part in enumerate(parts(layout.sources[0])):
        row_bytes = math.prod(part.shape) * part.dtype.item_bytes // math.prod(layout.sources[0].shape[:-1])
        pieces = tuple(
            Piece(name, rows.start * row_bytes, len(rows) * row_bytes)
            for name, ranges in ((parts(source)[number].name, source.rows) for source in layout.sources)
            for rows in ranges
        )
        arrays.append(StoredArray(part.read_as, (*layout.shape[:-1], row_bytes // part.read_as.item_bytes), pieces))
    return tuple(arrays)


def _matrix_rows(layout: Layout) -> Iterator[tuple[Source, int, range]]:
    """Yield the layout's ranges of rows, cut where another matrix of a stack begins: (source, matrix, rows within)."""
    for source, rows in layout.runs:
        n_rows, start = source.shape[-2], rows.start
        while start < rows.stop:
            first = start // n_rows * n_rows
            end = min(first + n_rows, rows.stop)
            yield source, first // n_rows, range(start - first, end - first)
            start = end

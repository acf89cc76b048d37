"""Decoded: the arrays that a matrix has in memory, computed from those that are stored: decoded, cast, quantized.

Shapes: R rows, N inputs, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.form import Float8Blocks, PackedInt4
from mlx_moe.checkpoint.stored_parameter import Origin
from mlx_moe.errors import CheckpointError

INT4_ZERO = 8
"""compressed-tensors stores signed nibbles with this added."""


def in_memory(
    checkpoint: Checkpoint, origin: Origin, stored: Sequence[mx.array], dtype: mx.Dtype
) -> tuple[mx.array, ...]:
    """Return a vector or plain matrix alone, or words, scales and (affine) biases. Floats have `dtype`.

    Raises:
        CheckpointError: decoded numbers, or numbers to quantize, are not finite.
    """
    if not origin.is_derived:
        return tuple(_cast(array, dtype) for array in stored)
    if isinstance(origin.form, PackedInt4) and origin.quantization is not None and origin.target is None:
        words, scales = stored[0], _cast(stored[1], dtype)
        biases = scales * -INT4_ZERO
        _require_finite(checkpoint, origin, biases)
        return words, scales, biases
    floats = _floats(origin, stored, dtype)
    if origin.layout.offset:
        floats = floats.astype(mx.float32) + origin.layout.offset
    floats = _cast(floats, dtype)
    _require_finite(checkpoint, origin, floats)
    q = origin.target
    return (floats,) if q is None else tuple(mx.quantize(floats, group_size=q.group_size, bits=q.bits, mode=q.mode))


def _floats(origin: Origin, stored: Sequence[mx.array], dtype: mx.Dtype) -> mx.array:
    """Return the numbers of a matrix."""
    form, q = origin.form, origin.form.quantization
    if isinstance(form, Float8Blocks):
        return float8(stored[0], stored[1], form.rows_of_scales(origin.layout), form.columns)
    if isinstance(form, PackedInt4):
        return int4(stored[0], stored[1])
    if q is None:
        return stored[0]
    words, *others = stored
    scales, biases = (others[0], None) if q.mode != "affine" else (_cast(array, dtype) for array in others)
    return mx.dequantize(words, scales, biases, group_size=q.group_size, bits=q.bits, mode=q.mode, dtype=dtype)


def float8(numbers: mx.array, scales: mx.array, rows_of_scales: Sequence[int], columns: int) -> mx.array:
    """Return E4M3 `numbers` `[R, N]` (bytes) times their blocks' `scales`, in float32.

    Row i of `scales` scales the next `rows_of_scales[i]` rows, each of its numbers `columns` columns.
    """
    row = mx.array(np.repeat(np.arange(len(rows_of_scales)), rows_of_scales))
    by_column = mx.repeat(scales.astype(mx.float32), columns, axis=-1)[..., : numbers.shape[-1]]
    return mx.from_fp8(numbers, dtype=mx.float32) * by_column.reshape(-1, numbers.shape[-1])[row]


def int4(words: mx.array, scales: mx.array) -> mx.array:
    """Return offset nibbles in `words` `[R, N/8]`, low ones first, times `scales` `[R, G]`, in float32."""
    shifts = mx.arange(0, 32, 4, dtype=mx.uint32)
    nibbles = (mx.expand_dims(words, -1) >> shifts) & 15
    values = nibbles.astype(mx.float32).reshape(*scales.shape, -1) - INT4_ZERO
    return (values * mx.expand_dims(scales.astype(mx.float32), -1)).reshape(*words.shape[:-1], -1)


def _cast(array: mx.array, dtype: mx.Dtype) -> mx.array:
    return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array


def _require_finite(checkpoint: Checkpoint, origin: Origin, floats: mx.array) -> None:
    """Raise CheckpointError with the tensor and the row of the first number that is not finite."""
    finite = mx.isfinite(floats)
    if mx.all(finite).item():
        return
    is_right = np.array(mx.all(finite, axis=-1)).reshape(-1)
    row = int(np.argmin(is_right))
    for source, rows in origin.layout.runs:
        if row < len(rows):
            name = origin.form.parts(source)[0].name
            path = checkpoint.info(name).path
            raise CheckpointError(
                f"{path}: tensor {name} has NaN or infinity in row {rows[row]} ({origin.form.text}): download it again"
            )
        row -= len(rows)
    raise AssertionError("a row is outside its layout")

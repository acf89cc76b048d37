"""Quantizing: reads a planned parameter slab by slab and returns the bytes of its tensors."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.checkpoint.held import Held
from mlx_moe.checkpoint.stored_parameter import StoredParameter
from mlx_moe.conversion.plan import PlannedParameter

Bytes = npt.NDArray[np.uint8]

_MX_FLOATS = {Dtype.F32: mx.float32, Dtype.F16: mx.float16, Dtype.BF16: mx.bfloat16}


def tensor_bytes(checkpoint: Checkpoint, planned: PlannedParameter, advance: Callable[[int], None]) -> list[Bytes]:
    """Return the bytes of each of a parameter's tensors; `advance` is called with the bytes of each slab.

    Raises:
        CheckpointError: as `loader.load`.
    """
    tensors = [np.empty(tensor.nbytes, np.uint8) for tensor in planned.tensors]
    filled = [0] * len(tensors)
    for slab in planned.slabs:
        done = 0
        for number, array in enumerate(_converted(checkpoint, planned, slab)):
            part = np.frombuffer(memoryview(mx.contiguous(array)).cast("B"), np.uint8)  # type: ignore[arg-type]
            tensors[number][filled[number] : filled[number] + part.nbytes] = part
            filled[number] += part.nbytes
            done += part.nbytes
        advance(done)
    assert filled == [tensor.nbytes for tensor in planned.tensors]
    return tensors


def _converted(checkpoint: Checkpoint, planned: PlannedParameter, slab: StoredParameter) -> list[mx.array]:
    float_dtype = _MX_FLOATS[planned.float_dtype]
    arrays = _read(checkpoint, slab, float_dtype)
    if planned.is_copied:
        return arrays
    (array,) = arrays if slab.quantization is None else [_dequantized(slab, arrays, float_dtype)]
    if planned.is_turned:
        array = mx.contiguous(array.swapaxes(-1, -2))
    if (how := planned.quantization) is None:
        return [array]
    return list(mx.quantize(array, how.group_size, how.bits, how.mode))


def _read(checkpoint: Checkpoint, slab: StoredParameter, float_dtype: mx.Dtype) -> list[mx.array]:
    """Return a slab's arrays as stored. The loader widens routers, which loses nothing."""
    held: Held = {}
    loader.load(checkpoint, [slab], float_dtype, held=held)
    return [array.astype(float_dtype) if array.dtype in _MX_FLOATS.values() else array for array in held[slab.origin]]


def _dequantized(slab: StoredParameter, arrays: list[mx.array], float_dtype: mx.Dtype) -> mx.array:
    how = slab.quantization
    assert how is not None
    packed, scales, *biases = arrays
    return mx.dequantize(
        packed, scales, biases[0] if biases else None, how.group_size, how.bits, how.mode, dtype=float_dtype
    )

"""Quantizing: reads a planned parameter and returns the bytes of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.checkpoint.held import Arrays, Held
from mlx_moe.checkpoint.stored_parameter import Origin
from mlx_moe.conversion.plan import PlannedParameter

Bytes = npt.NDArray[np.uint8]

_MX_FLOATS = {Dtype.F32: mx.float32, Dtype.F16: mx.float16, Dtype.BF16: mx.bfloat16}


def tensor_bytes(checkpoint: Checkpoint, planned: PlannedParameter, progress: Callable[[float], None]) -> list[Bytes]:
    """Return the bytes of each of a parameter's tensors; `progress` is called with the share that is done.

    What is quantized is read a cut at a time, each cut when the one before is done: a load that reads ahead had a peak
    of up to 360 MB more.

    Raises:
        CheckpointError: as `loader.load`.
    """
    tensors = [np.empty(tensor.nbytes, np.uint8) for tensor in planned.tensors]
    filled, done = [0] * len(tensors), 0
    origin = planned.stored.origin
    for cut in [origin] if planned.is_turned else origin.cut():
        for number, array in enumerate(_converted(checkpoint, planned, cut)):
            data = _bytes(array)
            tensors[number][filled[number] : filled[number] + data.nbytes] = data
            filled[number] += data.nbytes
        done += cut.layout.count
        progress(done / origin.layout.count)
    assert filled == [tensor.nbytes for tensor in planned.tensors]
    return tensors


def _converted(checkpoint: Checkpoint, planned: PlannedParameter, cut: Origin) -> list[mx.array]:
    """Return the rows of a cut in each tensor."""
    float_dtype = _MX_FLOATS[planned.float_dtype]
    held: Held = {}
    loader.load(checkpoint, [replace(planned.stored, origin=cut)], float_dtype, held=held)
    arrays = held.pop(cut)
    if planned.is_turned:
        arrays = _turned(planned, arrays, float_dtype)
    return [_narrowed(array, float_dtype) for array in arrays]


def _turned(planned: PlannedParameter, arrays: Arrays, float_dtype: mx.Dtype) -> Arrays:
    """Return a matrix with its last two axes swapped, quantized along the new last one."""
    array, *others = arrays
    if (q := planned.stored.quantization) is not None:
        scales, biases = (*others, None)[:2]
        assert scales is not None  # every quantization has scales
        array = mx.dequantize(array, scales, biases, q.group_size, q.bits, q.mode, dtype=float_dtype)
    array = mx.contiguous(array.swapaxes(-1, -2))
    if (q := planned.quantization) is None:
        return (array,)
    return tuple(mx.quantize(array, q.group_size, q.bits, q.mode))


def _narrowed(array: mx.array, float_dtype: mx.Dtype) -> mx.array:
    """Return floats in the dtype in which they are stored; the loader widens routers, which loses nothing."""
    return array.astype(float_dtype) if mx.issubdtype(array.dtype, mx.floating) else array


def _bytes(array: mx.array) -> Bytes:
    """Return an array's bytes, without copying them."""
    return np.frombuffer(memoryview(mx.contiguous(array)).cast("B"), np.uint8)  # type: ignore[arg-type]

"""Quantizing: reads a planned parameter and returns the bytes of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.checkpoint.held import Arrays
from mlx_moe.checkpoint.stored_parameter import Origin
from mlx_moe.conversion.plan import PlannedParameter

Bytes = npt.NDArray[np.uint8]

MX_FLOATS = {Dtype.F32: mx.float32, Dtype.F16: mx.float16, Dtype.BF16: mx.bfloat16}


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
    for cut in _cuts(planned):
        (arrays,) = loader.read(checkpoint, [(cut, MX_FLOATS[planned.float_dtype])])
        for number, data in enumerate(converted_bytes(planned, arrays)):
            tensors[number][filled[number] : filled[number] + data.nbytes] = data
            filled[number] += data.nbytes
        done += cut.layout.count
        progress(done / origin.layout.count)
    assert filled == [tensor.nbytes for tensor in planned.tensors]
    return tensors


def converted_bytes(planned: PlannedParameter, arrays: Arrays) -> list[Bytes]:
    """Return the bytes of each tensor for rows of a parameter that were read in its floats, see MX_FLOATS."""
    float_dtype = MX_FLOATS[planned.float_dtype]
    if planned.is_turned:
        arrays = _turned(planned, arrays, float_dtype)
    if planned.n_projections > 1:
        arrays = _apart(planned, arrays)
    return [_bytes(array) for array in arrays]


def _cuts(planned: PlannedParameter) -> Iterable[Origin]:
    """Return what is converted one after the other; matrices that are turned or taken apart stay whole."""
    origin = planned.stored.origin
    if not planned.is_turned and planned.n_projections == 1:
        return origin.cut()
    return [replace(origin, layout=layout) for layout in origin.layout.matrices or [origin.layout]]


def _apart(planned: PlannedParameter, arrays: Arrays) -> Arrays:
    """Return the arrays of joined projections one projection after the other."""
    n, n_rows = planned.n_projections, planned.tensors[0].shape[1]
    joined = [array.reshape(array.shape[0], n * n_rows, -1) for array in arrays]
    if planned.stored.origin.layout.alternating:
        return tuple(array[:, i::n] for i in range(n) for array in joined)
    return tuple(array[:, i * n_rows : (i + 1) * n_rows] for i in range(n) for array in joined)


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


def _bytes(array: mx.array) -> Bytes:
    """Return an array's bytes, without copying them."""
    return np.frombuffer(memoryview(mx.contiguous(array)).cast("B"), np.uint8)  # type: ignore[arg-type]

"""Quantizing: reads a planned parameter and returns the bytes of its tensors."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.checkpoint.held import Arrays
from mlx_moe.conversion.plan import PlannedParameter, by_matrix

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
    origin, n = planned.stored.origin, planned.n_projections
    for cut in origin.cut() if planned.keeps_rows and n == 1 else by_matrix(planned.parameter, origin):
        (arrays,) = loader.read(checkpoint, [(cut, MX_FLOATS[planned.float_dtype])])
        joined = converted_bytes(planned, arrays)
        for number, data in enumerate(array.reshape(n, -1)[i] for i in range(n) for array in joined):
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
    if planned.stored.origin.layout.alternating:
        arrays = _in_order(arrays)
    return [_bytes(array) for array in arrays]


def _in_order(arrays: Arrays) -> Arrays:
    """Return two projections whose rows take turns `[E, 2I, ...]` one after the other `[E, 2, I, ...]`."""
    return tuple(array.reshape(array.shape[0], array.shape[1] // 2, 2, -1).swapaxes(1, 2) for array in arrays)


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

"""Tensor writer: writes one safetensors file of tensors in memory, durably, and takes their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, TensorSpec, serialize_file

from mlx_moe.checkpoint import durable_file
from mlx_moe.checkpoint.conversion_record import TensorDigest
from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.conversion.file_header import METADATA
from mlx_moe.conversion.plan import PlannedTensor
from mlx_moe.errors import CheckpointError

DIGEST_BYTES = 16

_NAMES = {
    Dtype.F32: "float32",
    Dtype.F16: "float16",
    Dtype.BF16: "bfloat16",
    Dtype.U32: "uint32",
    Dtype.U8: "uint8",
}
"""The names that the safetensors library has for the dtypes that are written."""


def write(path: Path, tensors: Mapping[PlannedTensor, npt.NDArray[np.uint8]], scratch: Path) -> dict[str, TensorDigest]:
    """Write a file of tensors given by their bytes; return their digests by name.

    It is written in the directory `scratch`, where the safetensors library leaves its own temporary file if the process
    is killed.

    Raises:
        CheckpointError: it cannot be written; nothing of it remains.
    """
    specs = {
        tensor.name: TensorSpec(
            dtype=_NAMES[tensor.dtype], shape=list(tensor.shape), data_ptr=data.ctypes.data, data_len=data.nbytes
        )
        for tensor, data in tensors.items()
    }
    try:
        with durable_file.replacing(path, scratch / path.name) as partial:
            serialize_file(specs, partial, METADATA)
            partial.chmod(scratch.stat().st_mode & 0o666)  # the library lets only this user read its files
    except (OSError, SafetensorError) as exc:
        raise CheckpointError(f"{path} cannot be written: {getattr(exc, 'strerror', None) or exc}") from exc
    return {
        tensor.name: TensorDigest(
            path.name, tensor.dtype, tensor.shape, hashlib.blake2b(data.data, digest_size=DIGEST_BYTES).hexdigest()
        )
        for tensor, data in tensors.items()
    }

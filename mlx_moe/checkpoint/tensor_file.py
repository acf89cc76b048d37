"""Tensor file: reads and checks the header of a safetensors file, whole or in part on this machine.

The checks are stricter than those of MLX and the official reader, which accept gaps, overlaps, trailing bytes and
duplicate keys (measured). Format: header length (8 bytes, little endian), a JSON object of tensors, the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_moe.checkpoint import json_file, other_formats
from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.checkpoint.regular_file import identity, open_regular
from mlx_moe.errors import CheckpointError

HEADER_SUFFIX = ".header"
"""NAME.safetensors.header has the beginning of a file whose data are elsewhere: header length and header."""

LENGTH_BYTES = 8
"""A weight file begins with the length of its header."""

MAX_HEADER_BYTES = 100_000_000
MAX_RANK = 8
MAX_DTYPE_LETTERS = 16
MAX_SIZE = 1 << 40

_KEYS = {"dtype", "shape", "data_offsets"}
_ITEM_BYTES = {str(dtype): dtype.item_bytes for dtype in Dtype}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's type and location; `offset` counts bytes from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A file's checked header, and the file's identity at that time.

    If it is not `is_whole`, only the header is on this machine, beside `path`, and `identity` is the header file's.
    `size` is the size of the whole file.
    """

    path: Path
    tensors: dict[str, TensorInfo]
    identity: tuple[int, int, int, int]
    size: int
    is_whole: bool = True


def read(path: Path) -> TensorFile:
    """Read and check a header.

    Raises:
        CheckpointError: the header is not valid; the message has the file, the tensor and the numbers.
    """
    is_whole = path.exists()
    with open_regular(path if is_whole else header_path(path)) as file:
        file_identity = identity(file)
        size = file_identity[1]
        data_start = header_bytes(path, file.read(LENGTH_BYTES), size)
        header = file.read(data_start - LENGTH_BYTES)
    tensors = parse(path, header, size - data_start if is_whole else None)
    end = max((tensor.offset + tensor.nbytes for tensor in tensors.values()), default=data_start)
    return TensorFile(path, tensors, file_identity, end, is_whole)


def header_bytes(path: Path | str, beginning: bytes, size: int) -> int:
    """Return how many bytes a file's header takes, with its length; `beginning` has the first ones of `size` bytes.

    Raises:
        CheckpointError: it cannot be a weight file of this size.
    """
    length = int.from_bytes(beginning[:LENGTH_BYTES], "little")
    if len(beginning) < LENGTH_BYTES or length > size - LENGTH_BYTES:
        if other := other_formats.by_beginning(beginning[:LENGTH_BYTES]):
            raise CheckpointError(f"{path} is {other}")
        raise CheckpointError(
            f"{path} is truncated: {size} bytes, of which its header claims {length}; download it again"
        )
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(f"{path}: its header has {length:,} bytes; the limit is {MAX_HEADER_BYTES:,}")
    return LENGTH_BYTES + length


def header_path(path: Path) -> Path:
    """Return the path of the file that has only the header of a weight file."""
    return path.with_name(path.name + HEADER_SUFFIX)


def parse(path: Path, header: bytes, data_bytes: int | None) -> dict[str, TensorInfo]:
    """Check a header (without its length) and return its tensors; `data_bytes` follow it, None: unknown.

    Raises:
        CheckpointError: as `read`.
    """
    entries = json_file.parse(header, f"{path}: header", max_depth=3)
    entries.pop("__metadata__", None)  # MLX writes null; nothing in it is needed
    data_start = LENGTH_BYTES + len(header)
    tensors = [_tensor(path, name, entry, data_start) for name, entry in entries.items()]
    end = data_start
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.nbytes)):
        if tensor.offset != end:
            kind = "overlaps the one before" if tensor.offset < end else "leaves a gap before it"
            raise CheckpointError(f"{path}: tensor {tensor.name} at byte {tensor.offset} {kind}, which ends at {end}")
        end += tensor.nbytes
    if data_bytes is not None and end != data_start + data_bytes:
        kind = "truncated" if end > data_start + data_bytes else "longer than its tensors"
        raise CheckpointError(
            f"{path} is {kind}: {data_start + data_bytes} bytes, its tensors end at {end}; download it again"
        )
    return {tensor.name: tensor for tensor in tensors}


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        raise CheckpointError(f"{path}: tensor {name} must have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or len(dtype) > MAX_DTYPE_LETTERS:
        raise CheckpointError(f"{path}: tensor {name} has the dtype {str(dtype)[:40]!r}")
    if not _sizes(shape) or len(shape) > MAX_RANK or (count := math.prod(shape)) > MAX_SIZE:
        raise CheckpointError(f"{path}: tensor {name} has the shape {str(shape)[:80]}")
    if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise CheckpointError(f"{path}: tensor {name} has the data_offsets {str(offsets)[:80]}")
    nbytes = offsets[1] - offsets[0]
    if dtype in _ITEM_BYTES and nbytes != (expected := count * _ITEM_BYTES[dtype]):
        raise CheckpointError(
            f"{path}: tensor {name} is {dtype} {shape}, {expected} bytes, but its offsets span {nbytes}"
        )
    return TensorInfo(name, dtype, tuple(shape), path, data_start + offsets[0], nbytes)


def _sizes(values: Any) -> bool:
    # `type` and not `isinstance`: True is no size
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= MAX_SIZE for value in values)

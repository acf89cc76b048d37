"""File header: the first bytes of a converted file, which are known before its tensors are."""

from __future__ import annotations

import json
from collections.abc import Iterable

from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.conversion.plan import PlannedTensor

METADATA = {"format": "mlx"}

_ALIGNMENT = 8
_ORDER = (Dtype.F32, Dtype.U32, Dtype.BF16, Dtype.F16, Dtype.U8)
"""The order of dtypes in a file of the safetensors library. Source: `prepare` in its tensor.rs, version 0.8."""


def file_header(tensors: Iterable[PlannedTensor]) -> bytes:
    """Return length and header of a file of tensors, to the byte as `tensor_writer` has the library write them."""
    entries: dict[str, object] = {"__metadata__": METADATA}
    end = 0
    for tensor in sorted(tensors, key=lambda t: (_ORDER.index(t.dtype), t.name)):
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": (end, end := end + tensor.nbytes),
        }
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text

"""Arrays to bytes and back: frames and messages. Shapes: L positions, D hidden_size."""

from __future__ import annotations

import mlx.core as mx
import numpy as np

from cluster.worker.messages import ITEM_BYTES, Dtype, Kind, Message
from mlx_moe.errors import FrameError
from mlx_moe.pipeline.frame import Frame, FrameKind

_KINDS = {FrameKind.PREFILL: Kind.PREFILL, FrameKind.DECODE: Kind.DECODE, FrameKind.DRAFT: Kind.DRAFT}
_FRAME_KINDS = {kind: frame_kind for frame_kind, kind in _KINDS.items()}
_DTYPES = {mx.float32: Dtype.FLOAT32, mx.bfloat16: Dtype.BFLOAT16, mx.float16: Dtype.FLOAT16}
_MLX_DTYPES = {dtype: mlx_dtype for mlx_dtype, dtype in _DTYPES.items()}

_EXPONENTS = {
    Dtype.FLOAT32: (np.uint32, 0x7F800000),
    Dtype.BFLOAT16: (np.uint16, 0x7F80),
    Dtype.FLOAT16: (np.uint16, 0x7C00),
}
"""The bits of the exponent, all of which NaN and Inf have set, and nothing else."""

CHECKED = 1


def bytes_of(array: mx.array) -> memoryview:
    """Return a view of an array's bytes; evaluates it."""
    return memoryview(array).cast("B")  # type: ignore[arg-type]  # MLX's stubs lack the buffer protocol


def array_of(payload: bytes | memoryview, rows: int, width: int, dtype: Dtype) -> mx.array:
    """Return bytes as an array `[rows, width]`; copies them once. Raises FrameError if their number does not match."""
    if rows * width * ITEM_BYTES[dtype] != len(payload) or not payload:
        raise FrameError(f"{len(payload)} bytes for {rows} x {width} numbers of {ITEM_BYTES[dtype]} bytes")
    shape = (rows, width)  # shaped here: a reshape would be one more operation to evaluate
    if dtype is Dtype.FLOAT32:
        return mx.array(memoryview(payload).cast("f", shape))  # type: ignore[arg-type]  # MLX's stubs lack buffers
    return mx.array(memoryview(payload).cast("H", shape)).view(_MLX_DTYPES[dtype])  # type: ignore[arg-type]


def is_finite(payload: bytes | memoryview, dtype: Dtype) -> bool:
    """Whether there is neither NaN nor Inf among numbers; 10 us for eight rows of DeepSeek-V3."""
    bits, mask = _EXPONENTS[dtype]
    exponents = np.frombuffer(payload, bits) & bits(mask)
    return int(exponents.max(initial=0)) < mask


def dtype_of(array: mx.array) -> Dtype:
    """Return an array's data type on the wire."""
    return _DTYPES[array.dtype]


def to_message(frame: Frame, epoch: int) -> Message:
    """Return a frame of a placement as a message; waits until its hidden states are computed."""
    rows, width = frame.hidden_states.shape
    return Message(
        _KINDS[frame.kind],
        frame.sequence_id,
        epoch,
        frame.serial,
        frame.position,
        rows,
        width,
        frame.outputs or 0,
        dtype_of(frame.hidden_states),
        CHECKED if frame.checked else 0,
        bytes_of(frame.hidden_states),
    )


def to_frame(message: Message, node: str) -> Frame:
    """Return the frame that a message carries to a node.

    Raises:
        FrameError: the number of its bytes does not match the header.
    """
    try:
        hidden_states = array_of(message.payload, message.rows, message.width, message.dtype)
    except FrameError as error:
        raise FrameError(f"node {node}: a frame at position {message.position}: {error}") from error
    return Frame(
        message.sequence_id,
        message.position,
        hidden_states,
        _FRAME_KINDS[message.kind],
        message.serial,
        message.outputs or None,
        bool(message.flags & CHECKED),
    )


def is_frame(message: Message) -> bool:
    """Whether a message is a frame."""
    return message.kind in _FRAME_KINDS


def is_step(message: Message) -> bool:
    """Whether a message is a frame that can be computed together with those of other sequences, see Frame."""
    is_decode = message.kind in (Kind.DECODE, Kind.DRAFT)
    return is_decode and message.rows == 1 and not message.flags & CHECKED

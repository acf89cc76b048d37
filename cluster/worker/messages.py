"""Messages: the bytes sent on the ring, and between a stage and its expert peers.

Each has a fixed header and a payload, with a checksum each. gRPC carries the bytes as they are: a protobuf field would
copy them three times (2.2 ms for 1 MiB). All integers are big-endian. Knows nothing about arrays.
"""

from __future__ import annotations

import struct
import time
import zlib
from dataclasses import dataclass, field
from enum import IntEnum

from cluster.rpc_errors import error_named
from mlx_moe.errors import MoeClusterError, RewindError
from mlx_moe.layers.batches import TOGETHER

FRAMES_METHOD = "/moe_cluster.v1.Ring/Frames"
EXPERTS_METHOD = "/moe_cluster.v1.Ring/Experts"

MAX_MESSAGE_BYTES = 256 << 20
"""Longest message on a data link: a chunk of 512 positions, all 8 experts' rows of each, is 59 MB for DeepSeek-V3."""

MAX_FAILURE_BYTES = 4000
"""How much of a failure's text is read."""

NO_SEQUENCE = "0" * 32
"""In place of a sequence id where a message concerns none, or several."""

_MAGIC = b"MCF1"
_HEADER = struct.Struct(">4sBBBxIQ16sIIIIQ")
_CHECKSUMS = struct.Struct(">II")
HEADER_BYTES = _HEADER.size + _CHECKSUMS.size


class Kind(IntEnum):
    """Message types: frames, other ring messages, expert requests."""

    PREFILL = 1
    DECODE = 2
    DRAFT = 3
    FORK = 16
    RELEASE = 17
    FAILURE = 18
    TIMELINES = 19
    MEMORY = 20
    RETAIN = 21
    PAIRS = 32
    ROWS = 33


class Dtype(IntEnum):
    """Data type of hidden states."""

    FLOAT32 = 1
    BFLOAT16 = 2
    FLOAT16 = 3


ITEM_BYTES = {Dtype.FLOAT32: 4, Dtype.BFLOAT16: 2, Dtype.FLOAT16: 2}


class LinkError(MoeClusterError):
    """Invalid bytes on a link, which cannot be trusted any more."""

    code = "bad_link"
    retryable = True


@dataclass(frozen=True, slots=True)
class Message:
    """One message. The meaning of its numbers depends on the kind.

    PREFILL, DECODE, DRAFT: `rows` x `width` hidden states of the positions from `position` on; `outputs` of them must
        return (0: all); `flags` bit 0: checked.
    FORK: the first `position` positions of the sequence whose id is the payload.
    RELEASE: nothing more.
    RETAIN: the payload has the ids of all sequences that have answers.
    FAILURE: the payload is a code, a space and a text; `position` is the one reached by a RewindError.
    TIMELINES: the spans of the stages that it has passed, see `recording`.
    MEMORY: what a node uses, see `memory_guard`.
    PAIRS: `outputs` pairs, then `rows` x `width` hidden states; `position` is the layer; `flags` bit 0: by expert.
    ROWS: `rows` x `width` results.

    `serial` is the number of the frame, or of the failed frame, at its coordinator; expert requests are numbered per
    link. `arrived_s` is the monotonic time of arrival.
    """

    kind: Kind
    sequence_id: str
    epoch: int = 0
    serial: int = 0
    position: int = 0
    rows: int = 0
    width: int = 0
    outputs: int = 0
    dtype: Dtype = Dtype.FLOAT32
    flags: int = 0
    payload: bytes | memoryview = b""
    arrived_s: float = field(default=0.0, compare=False)

    def encode(self) -> bytes:
        """Return it as bytes; copies the payload once."""
        header = _HEADER.pack(
            _MAGIC,
            self.kind,
            self.dtype,
            self.flags,
            self.epoch,
            self.serial,
            bytes.fromhex(self.sequence_id),
            self.position,
            self.rows,
            self.width,
            self.outputs,
            len(self.payload),
        )
        checksums = _CHECKSUMS.pack(zlib.crc32(header), zlib.crc32(self.payload))
        return b"".join((header, checksums, self.payload))

    @classmethod
    def decode(cls, data: bytes) -> Message:
        """Read a message. Its payload is a view of `data`.

        Raises:
            LinkError: the bytes are no message, were cut, or were changed on their way.
        """
        message, rest = _first(memoryview(data))
        if rest:
            raise LinkError(f"{len(rest)} bytes after a message")
        return message


def _first(data: memoryview) -> tuple[Message, memoryview]:
    """Read the first message; return it with the bytes after it. Raises LinkError."""
    if len(data) < HEADER_BYTES or data[:4] != _MAGIC:
        raise LinkError(f"{len(data)} bytes that are no message of moe-cluster")
    header_sum, payload_sum = _CHECKSUMS.unpack_from(data, _HEADER.size)
    if zlib.crc32(data[: _HEADER.size]) != header_sum:
        raise LinkError("a message whose header was changed on its way")
    fields = _HEADER.unpack_from(data)
    _, kind, dtype, flags, epoch, serial, sequence_id, position, rows, width, outputs, length = fields
    payload, rest = data[HEADER_BYTES : HEADER_BYTES + length], data[HEADER_BYTES + length :]
    if length != len(payload):
        raise LinkError(f"a message of {len(payload)} bytes that says {length}")
    try:
        kind, dtype = Kind(kind), Dtype(dtype)
    except ValueError as exc:
        raise LinkError(f"a message that this version does not know: {exc}") from exc
    if zlib.crc32(payload) != payload_sum:
        raise LinkError("a message whose payload was changed on its way")
    message = Message(
        kind,
        sequence_id.hex(),
        epoch,
        serial,
        position,
        rows,
        width,
        outputs,
        dtype,
        flags,
        payload,
        time.monotonic(),
    )
    return message, rest


def decode_batch(data: bytes) -> list[Message]:
    """Read the messages of a batch, which follow each other.

    Raises:
        LinkError: as `Message.decode`, or there are more than a batch has.
    """
    messages: list[Message] = []
    rest = memoryview(data)
    while rest or not messages:
        if len(messages) == TOGETHER:
            raise LinkError(f"a batch of more than {TOGETHER} messages")
        message, rest = _first(rest)
        messages.append(message)
    return messages


def failure(message: Message, error: MoeClusterError) -> Message:
    """Return the FAILURE for a failed message; for a RewindError `position` is the position reached."""
    payload = f"{error.code} {error}".encode()
    reached = error.reached if isinstance(error, RewindError) else 0
    return Message(Kind.FAILURE, message.sequence_id, message.epoch, message.serial, position=reached, payload=payload)


def raised_by(message: Message) -> MoeClusterError:
    """Return the error of a FAILURE message."""
    code, _, text = bytes(message.payload[:MAX_FAILURE_BYTES]).decode(errors="replace").partition(" ")
    if code == RewindError.code:
        return RewindError(text, reached=message.position)
    return error_named(code, text)

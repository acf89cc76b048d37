"""Pipe: length-prefixed protobuf messages between a daemon and its worker, over standard input and output."""

from __future__ import annotations

import asyncio
import struct
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from cluster.errors import ClusterError

M = TypeVar("M", bound=Message)

_LENGTH = struct.Struct(">I")
MAX_MESSAGE_BYTES = 16 << 20
"""A placement that lists the experts of every layer is about a megabyte of JSON."""


def framed(message: Message) -> bytes:
    """Return a message's bytes with their length before them."""
    data = message.SerializeToString()
    return _LENGTH.pack(len(data)) + data


async def read(stream: asyncio.StreamReader, message: M) -> M | None:
    """Fill and return `message` with the next one from a pipe; None at its end.

    Raises:
        ClusterError: these bytes are no message.
    """
    try:
        (length,) = _LENGTH.unpack(await stream.readexactly(_LENGTH.size))
        if length > MAX_MESSAGE_BYTES:
            raise ClusterError(f"a message of {length:,} bytes between a daemon and its worker")
        message.ParseFromString(await stream.readexactly(length))
    except asyncio.IncompleteReadError:
        return None
    except DecodeError as exc:
        raise ClusterError("bytes between a daemon and its worker that are no message") from exc
    return message

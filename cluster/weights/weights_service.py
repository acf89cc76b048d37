"""WeightsService: sends ranges of this node's weight files to other nodes of the cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from cluster.rpc_errors import reported
from cluster.weights.pacer import Pacer
from cluster.wire import node_pb2 as pb
from mlx_moe.checkpoint.source import WeightSource
from mlx_moe.errors import CheckpointError, InvalidRequestError

READ_METHOD = "/moe_cluster.v1.Weights/Read"

BLOCK_BYTES = 4 << 20
"""Bytes that a thread reads at once; for each read, two threads wait for each other."""

MAX_RANGES = 1 << 16
"""Most ranges of one request: as many as fit gRPC's limit of 4 MiB for a message, with room."""

MAX_FILE_BYTES = 1 << 50

Context = grpc.aio.ServicerContext[Any, Any]


class WeightsService(grpc.GenericRpcHandler):
    """Answers a ReadWeights with the bytes, in messages of at most a chunk.

    `source` returns what this node has of a content; it raises CheckpointError for contents that it was not asked to
    serve. A caller names contents, files and ranges, never paths.
    """

    def __init__(self, source: Callable[[str], WeightSource], pacer: Pacer) -> None:
        self._source = source
        self._pacer = pacer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method, for gRPC."""
        if handler_call_details.method != READ_METHOD:
            return None
        return grpc.unary_stream_rpc_method_handler(self._read)

    async def _read(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        async with reported(context):
            asked, ranges = _asked(request)
            source = await asyncio.to_thread(self._source, asked.content_hash)
            for block in _blocks(ranges):
                if any(source.present(asked.file, span) != [span] for span in block):
                    first = block[0].start
                    raise CheckpointError(f"bytes of {asked.file[:80]!r} from {first} on are not here, or do not exist")
                memory = memoryview(bytearray(sum(map(len, block))))
                await asyncio.to_thread(source.read_into, asked.file, block, memory)
                while memory:
                    data, memory = memory[: self._pacer.chunk_bytes], memory[self._pacer.chunk_bytes :]
                    await self._pacer.wait(len(data))
                    yield bytes(data)


def _blocks(ranges: Iterable[range]) -> Iterator[list[range]]:
    """Yield ranges, cut and together, so that each block has at most BLOCK_BYTES."""
    block: list[range] = []
    room = BLOCK_BYTES
    for span in ranges:
        rest = span
        while rest:
            part, rest = rest[:room], rest[room:]
            block.append(part)
            room -= len(part)
            if not room:
                yield block
                block, room = [], BLOCK_BYTES
    if block:
        yield block


def _asked(request: bytes) -> tuple[pb.ReadWeights, Iterator[range]]:
    """Return a request and its ranges. Raises InvalidRequestError."""
    try:
        asked = pb.ReadWeights.FromString(request)
    except DecodeError as exc:
        raise InvalidRequestError("the request is not a ReadWeights") from exc
    if len(asked.starts) != len(asked.sizes) or not 0 < len(asked.starts) <= MAX_RANGES or 0 in asked.sizes:
        raise InvalidRequestError(
            f"{len(asked.starts)} starts and {len(asked.sizes)} sizes are not 1 to {MAX_RANGES} ranges of bytes"
        )
    if max(asked.starts) >= MAX_FILE_BYTES or max(asked.sizes) >= MAX_FILE_BYTES:
        raise InvalidRequestError(f"no file has {MAX_FILE_BYTES:,} bytes")
    return asked, (range(start, start + size) for start, size in zip(asked.starts, asked.sizes, strict=True))

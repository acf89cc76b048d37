"""Data service: a worker's stream of raw bytes for one other node, and the call that cancels frames."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from cluster.rpc_errors import reported
from cluster.wire import worker_pb2 as pb
from cluster.wire import worker_pb2_grpc
from cluster.worker.frame_stream import COUNT, EPOCH_KEY, RECEIVED_KEY
from cluster.worker.memory_guard import MemoryUse
from cluster.worker.messages import EXPERTS_METHOD, FRAMES_METHOD, LinkError, Message, decode_batch
from mlx_moe.errors import InvalidRequestError
from mlx_moe.pipeline.frame import Cancel

SEQUENCE_ID_BYTES = 16

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

CONFIRM_S = 1.0
CONFIRM_BYTES = 1 << 20
"""How often a receiver says what has arrived: the sender keeps the rest."""


Take = Callable[[list[Message]], Awaitable[None]]


class FramesService(grpc.GenericRpcHandler):
    """Passes each message of an epoch to `take` once, in order, over all streams of the link; see FrameStream.

    Those of a batch are passed together, and others alone. Bytes that were changed on their way end the stream: the
    sender opens it again, and sends them again.
    """

    def __init__(self, epoch: int, take: Take) -> None:
        self._epoch = epoch
        self._take: Take | None = take
        self._received = 0
        self._unconfirmed_bytes = 0
        self._streams = 0

    def close(self) -> None:
        """Take no more messages, and release what took them; open streams end with their next message."""
        self._take = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method, for gRPC."""
        if handler_call_details.method != FRAMES_METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    async def _serve(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Yield the number of messages that have arrived, also if none has: the sender hears that this node lives."""
        epoch = dict(context.invocation_metadata() or ()).get(EPOCH_KEY)
        if self._take is None or epoch != str(self._epoch):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"this link belongs to epoch {self._epoch}")
        self._streams += 1
        await context.send_initial_metadata(((RECEIVED_KEY, str(self._received)),))
        has_much = asyncio.Event()
        taking = asyncio.create_task(self._take_all(messages, has_much, self._streams))
        try:
            while not taking.done():
                due = asyncio.create_task(has_much.wait())
                await asyncio.wait((taking, due), timeout=CONFIRM_S, return_when=asyncio.FIRST_COMPLETED)
                due.cancel()
                has_much.clear()
                yield COUNT.pack(self._received)
            taking.result()
        except LinkError as error:
            log.error("event=bad_link error=%s", error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        finally:
            taking.cancel()

    async def _take_all(self, messages: AsyncIterator[bytes], has_much: asyncio.Event, stream: int) -> None:
        """Take the messages of a stream until the sender opens another one. Raises LinkError."""
        async for data in messages:
            if self._take is None or stream != self._streams:
                return  # on another stream this message is sent again
            batch = decode_batch(data)
            self._received += 1
            self._unconfirmed_bytes += len(data)
            if self._unconfirmed_bytes >= CONFIRM_BYTES:
                self._unconfirmed_bytes = 0
                has_much.set()
            await self._take(batch)


class ExpertsService(grpc.GenericRpcHandler):
    """Answers the requests of a stage's leader, one after the other."""

    def __init__(self, answer: Callable[[Message], Awaitable[Message]]) -> None:
        self._answer: Callable[[Message], Awaitable[Message]] | None = answer

    def close(self) -> None:
        """Answer no more requests, and release what answered them; open streams end with their next message."""
        self._answer = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method, for gRPC."""
        if handler_call_details.method != EXPERTS_METHOD:
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    async def _serve(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        await context.send_initial_metadata(())  # tells the caller that it is accepted
        try:
            async for data in messages:
                if self._answer is None:
                    raise LinkError("this link belongs to an earlier placement")
                yield (await self._answer(Message.decode(data))).encode()
        except LinkError as error:
            log.error("event=bad_link error=%s", error)
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))


class MemoryService(worker_pb2_grpc.StageServicer):
    """Takes what expert peers use, at the coordinator."""

    def __init__(self, note: Callable[[MemoryUse], None]) -> None:
        self._note = note

    async def NoteMemory(self, request: pb.MemoryUse, context: Context) -> pb.MemoryNoted:  # noqa: N802, ARG002
        """Note what a peer uses."""
        self._note(MemoryUse.from_message(request))
        return pb.MemoryNoted()


class CancelService(worker_pb2_grpc.StageServicer):
    """Cancels frames in the ring by a call of its own, because messages on the ring cannot overtake frames."""

    def __init__(self, cancel: Callable[[Cancel], None]) -> None:
        self._cancel = cancel

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelReply:  # noqa: N802
        """Drop a sequence's frames up to a serial number."""
        async with reported(context):
            if len(request.sequence_id) != SEQUENCE_ID_BYTES:
                raise InvalidRequestError(f"a sequence id must have {SEQUENCE_ID_BYTES} bytes")
            self._cancel(Cancel(request.sequence_id.hex(), request.serial))
        return pb.CancelReply()

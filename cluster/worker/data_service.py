"""Data service: a worker's stream of raw bytes for one other node, and the call that cancels frames.

Who may make these calls is in `callers`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from cluster.rpc_errors import reported
from cluster.wire import worker_pb2 as pb
from cluster.wire import worker_pb2_grpc
from cluster.worker.messages import LinkError, Message
from mlx_moe.errors import InvalidRequestError
from mlx_moe.pipeline.frame import Cancel

SEQUENCE_ID_BYTES = 16

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class DataService(grpc.GenericRpcHandler):
    """Passes the messages of a stream to `take`, one after the other, and sends its results back."""

    def __init__(self, method: str, take: Callable[[Message], Awaitable[Message | None]]) -> None:
        self._method = method
        self._take = take

    def close(self) -> None:
        """Take no more messages, and release what took them; open streams end with their next message."""
        self._take = _refuse

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method, for gRPC."""
        if handler_call_details.method != self._method:
            return None
        return grpc.stream_stream_rpc_method_handler(self._serve)

    async def _serve(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        await context.send_initial_metadata(())  # tells the caller that it is accepted
        try:
            async for data in messages:
                if reply := await self._take(Message.decode(data)):
                    yield reply.encode()
        except LinkError as error:
            log.error("event=bad_link error=%s", error)
            await context.abort(grpc.StatusCode.DATA_LOSS, str(error))


async def _refuse(_message: Message) -> Message | None:
    raise LinkError("this link belongs to an earlier placement")


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

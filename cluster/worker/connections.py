"""Connections: the channels from one worker to the others of its placement, opened once and kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress

import grpc

from cluster.errors import NodeLostError
from cluster.trust.credentials import Credentials, max_message
from cluster.wire import worker_pb2 as pb
from cluster.wire import worker_pb2_grpc
from cluster.worker.messages import FRAMES_METHOD, MAX_MESSAGE_BYTES, Message
from cluster.worker.remote_experts import ExpertLink
from mlx_moe.errors import MoeClusterError
from mlx_moe.pipeline.frame import Cancel

log = logging.getLogger(__name__)

DATA_OPTIONS = max_message(MAX_MESSAGE_BYTES)

CONNECT_S = 20.0
"""Timeout for the workers of a placement to open their ports: all are told at once."""

SEND_S = 60.0
"""How long the next node may take to receive a message; it receives while it computes."""

CLOSE_S = 0.5
"""How long cancels in progress may take while the links are closed."""


class FrameStream:
    """The stream of messages to the next node."""

    def __init__(self, call: grpc.aio.StreamStreamCall[bytes, bytes]) -> None:
        self._call = call
        self._one_at_a_time = asyncio.Lock()

    async def send(self, message: Message) -> None:
        """Send a message; wait while the next node is far behind. Messages on a broken stream are dropped.

        The stream breaks if a message takes longer than SEND_S: the next node is stuck.
        """
        with suppress(grpc.RpcError, asyncio.InvalidStateError, TimeoutError):  # the stream's callback reports it
            async with self._one_at_a_time, asyncio.timeout(SEND_S):  # a write that is cancelled cancels the call
                await self._call.write(message.encode())


class Connections:
    """Opens channels to other workers, by node id; `fail` is called when a stream of frames breaks."""

    def __init__(
        self, credentials: Credentials, workers: Iterable[pb.WorkerAddress], fail: Callable[[MoeClusterError], None]
    ) -> None:
        self._credentials = credentials
        self._workers = {worker.node_id: worker for worker in workers}
        self._fail = fail
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._expert_links: list[ExpertLink] = []
        self._cancelling: set[asyncio.Task[None]] = set()

    def name(self, node_id: str) -> str:
        """Return a node's name."""
        return self._workers[node_id].name

    async def frames_to(self, node_id: str) -> FrameStream:
        """Open the stream of frames to a node. Raises NodeLostError."""
        name = self._workers[node_id].name
        call: grpc.aio.StreamStreamCall[bytes, bytes] = self._channel(node_id).stream_stream(FRAMES_METHOD)(
            wait_for_ready=True
        )
        try:
            async with asyncio.timeout(CONNECT_S):
                await call.initial_metadata()
        except (TimeoutError, grpc.RpcError) as exc:
            call.cancel()
            raise NodeLostError(
                f"the link to node {name} did not open within {CONNECT_S:g} s", node_id=node_id
            ) from exc
        call.add_done_callback(lambda _: self._fail(NodeLostError(f"the link to node {name} broke", node_id=node_id)))
        return FrameStream(call)

    async def experts_of(self, node_id: str) -> ExpertLink:
        """Open the stream of requests to an expert peer. Raises NodeLostError."""
        worker = self._workers[node_id]
        channel = self._credentials.channel(worker.target, node_id, DATA_OPTIONS)
        link = ExpertLink(channel, worker.name)
        self._expert_links.append(link)
        try:
            await asyncio.to_thread(link.open, CONNECT_S)
        except (grpc.FutureTimeoutError, grpc.RpcError) as exc:
            raise NodeLostError(
                f"node {worker.name} does not take questions about its experts", node_id=node_id
            ) from exc
        return link

    def cancel(self, cancel: Cancel) -> None:
        """Tell the stages on other nodes to drop frames of a sequence, without waiting."""
        request = pb.CancelRequest(sequence_id=bytes.fromhex(cancel.sequence_id), serial=cancel.serial)
        for channel in self._channels.values():
            task = asyncio.create_task(self._cancel(channel, request))
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)

    def reach(self, node_id: str) -> None:
        """Open a channel to a stage for `cancel`."""
        self._channel(node_id)

    async def close(self) -> None:
        """Close everything."""
        self._fail = lambda _: None
        for link in self._expert_links:
            link.close()
        channels, self._channels = self._channels, {}  # no cancels are sent from now on
        if self._cancelling:  # gRPC aborts the process if a channel is closed while a call starts
            await asyncio.wait(self._cancelling, timeout=CLOSE_S)
        for channel in channels.values():
            await channel.close()

    async def _cancel(self, channel: grpc.aio.Channel, request: pb.CancelRequest) -> None:
        try:
            await worker_pb2_grpc.StageStub(channel).Cancel(request, timeout=CONNECT_S)
        except grpc.RpcError as exc:  # the frames are dropped on return in any case
            log.debug("event=cancel_failed error=%s", exc)

    def _channel(self, node_id: str) -> grpc.aio.Channel:
        if node_id not in self._channels:
            self._channels[node_id] = self._credentials.aio_channel(
                self._workers[node_id].target, node_id, DATA_OPTIONS
            )
        return self._channels[node_id]

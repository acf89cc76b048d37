"""Connections: the channels from one worker to the others of its placement, opened once and kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import grpc

from cluster.errors import NodeLostError
from cluster.trust.credentials import Credentials, max_message
from cluster.wire import worker_pb2 as pb
from cluster.wire import worker_pb2_grpc
from cluster.worker.frame_stream import EPOCH_KEY, Call, FrameStream
from cluster.worker.memory_guard import LOOK_S, MemoryUse
from cluster.worker.messages import FRAMES_METHOD, MAX_MESSAGE_BYTES
from cluster.worker.remote_experts import ExpertLink
from mlx_moe.errors import MoeClusterError
from mlx_moe.pipeline.frame import Cancel

log = logging.getLogger(__name__)

DATA_OPTIONS = max_message(MAX_MESSAGE_BYTES)

EXPERT_OPTIONS = (
    *DATA_OPTIONS,
    # A leader waits for its peers inside a layer and hears nothing else: a silent one ends that within 1.5 s. A stream
    # that a busy peer loses so is opened again, and the request repeated.
    ("grpc.keepalive_time_ms", 500),
    ("grpc.keepalive_timeout_ms", 1000),
    ("grpc.http2.ping_timeout_ms", 1000),
)

CONNECT_S = 20.0
"""Timeout for the workers of a placement to open their ports: all are told at once."""

CLOSE_S = 0.5
"""How long cancels in progress may take while the links are closed."""


class Connections:
    """Opens channels to the other workers of an epoch, by node id; `fail` is called when a stream of frames is lost."""

    def __init__(
        self,
        credentials: Credentials,
        workers: Iterable[pb.WorkerAddress],
        epoch: int,
        fail: Callable[[MoeClusterError], None],
    ) -> None:
        self._credentials = credentials
        self._epoch = epoch
        self._workers = {worker.node_id: worker for worker in workers}
        self._fail = fail
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._streams: list[FrameStream] = []
        self._expert_links: list[ExpertLink] = []
        self._cancelling: set[asyncio.Task[None]] = set()

    def name(self, node_id: str) -> str:
        """Return a node's name."""
        return self._workers[node_id].name

    async def frames_to(self, node_id: str) -> FrameStream:
        """Open the stream of frames to a node. Raises NodeLostError."""

        def new_call() -> Call:
            method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self._channel(node_id).stream_stream(
                FRAMES_METHOD
            )
            return method(metadata=((EPOCH_KEY, str(self._epoch)),), wait_for_ready=True)

        stream = FrameStream(new_call, self.name(node_id), node_id, lambda error: self._fail(error))
        self._streams.append(stream)
        await stream.open(CONNECT_S)
        return stream

    async def experts_of(self, node_id: str) -> ExpertLink:
        """Open the stream of requests to an expert peer. Raises NodeLostError."""
        worker = self._workers[node_id]
        channel = self._credentials.channel(worker.target, node_id, EXPERT_OPTIONS)
        link = ExpertLink(channel, worker.name, node_id)
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

    async def tell_memory(self, node_id: str, use: MemoryUse) -> None:
        """Tell the coordinator on a node what this one uses; if it is not heard, the next time counts."""
        stub = worker_pb2_grpc.StageStub(self._channel(node_id))
        try:
            await stub.NoteMemory(use.to_message(), timeout=LOOK_S)
        except grpc.RpcError as exc:
            log.debug("event=memory_not_told error=%s", exc)

    def reach(self, node_id: str) -> None:
        """Open a channel to a stage for `cancel`."""
        self._channel(node_id)

    async def close(self) -> None:
        """Close everything."""
        self._fail = lambda _: None
        for stream in self._streams:
            stream.close()
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

"""Connections: the channels from one worker to the others of its placement, opened once and kept."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

import grpc

from cluster.errors import NodeLostError
from cluster.trust.credentials import Credentials, max_message
from cluster.wire import worker_pb2 as pb
from cluster.wire import worker_pb2_grpc
from cluster.worker.messages import FRAMES_METHOD, MAX_MESSAGE_BYTES
from cluster.worker.remote_experts import ExpertLink
from mlx_moe.errors import MoeClusterError

log = logging.getLogger(__name__)

DATA_OPTIONS = max_message(MAX_MESSAGE_BYTES)

CONNECT_S = 20.0
"""For the workers of a placement to open their ports: all are told at once."""

FrameStream = grpc.aio.StreamStreamCall[bytes, bytes]


class Connections:
    """Opens channels to `targets`, by node id; `fail` hears of a stream of frames that breaks."""

    def __init__(
        self, credentials: Credentials, targets: Mapping[str, str], fail: Callable[[MoeClusterError], None]
    ) -> None:
        self._credentials = credentials
        self._targets = targets
        self._fail = fail
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._expert_links: list[ExpertLink] = []
        self._cancelling: set[asyncio.Task[None]] = set()

    async def frames_to(self, node_id: str) -> FrameStream:
        """Open the stream of frames to a node. Raises NodeLostError."""
        call: FrameStream = self._channel(node_id).stream_stream(FRAMES_METHOD)(wait_for_ready=True)
        try:
            async with asyncio.timeout(CONNECT_S):
                await call.initial_metadata()
        except (TimeoutError, grpc.RpcError) as exc:
            call.cancel()
            raise NodeLostError(f"the link to node {node_id} did not open within {CONNECT_S:g} s") from exc
        call.add_done_callback(lambda _: self._fail(NodeLostError(f"the link to node {node_id} broke")))
        return call

    async def experts_of(self, node_id: str) -> ExpertLink:
        """Open the stream of questions to an expert peer. Raises NodeLostError."""
        channel = self._credentials.channel(self._targets[node_id], node_id, DATA_OPTIONS)
        link = ExpertLink(channel, node_id)
        self._expert_links.append(link)
        try:
            await asyncio.to_thread(link.open, CONNECT_S)
        except (grpc.FutureTimeoutError, grpc.RpcError) as exc:
            raise NodeLostError(f"node {node_id} does not take questions about its experts") from exc
        return link

    def cancel(self, request_id: str, serial: int) -> None:
        """Tell the stages elsewhere to drop a request's frames; waits for nothing."""
        request = pb.CancelRequest(request_id=bytes.fromhex(request_id), serial=serial)
        for node_id in self._channels:
            task = asyncio.create_task(self._cancel(node_id, request))
            self._cancelling.add(task)
            task.add_done_callback(self._cancelling.discard)

    def reach(self, node_id: str) -> None:
        """Open a channel to a stage that `cancel` shall reach."""
        self._channel(node_id)

    async def close(self) -> None:
        """Close everything."""
        self._fail = lambda _: None
        for link in self._expert_links:
            link.close()
        for channel in self._channels.values():
            await channel.close()

    async def _cancel(self, node_id: str, request: pb.CancelRequest) -> None:
        try:
            await worker_pb2_grpc.StageStub(self._channels[node_id]).Cancel(request, timeout=CONNECT_S)
        except grpc.RpcError as exc:  # its frames come back to nobody, all the same
            log.debug("event=cancel_failed node=%s error=%s", node_id, exc)

    def _channel(self, node_id: str) -> grpc.aio.Channel:
        if node_id not in self._channels:
            self._channels[node_id] = self._credentials.aio_channel(self._targets[node_id], node_id, DATA_OPTIONS)
        return self._channels[node_id]

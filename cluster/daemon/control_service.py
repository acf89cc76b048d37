"""ControlService: what this node's own command line asks. It shows the node's certificate; nobody else has it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc

from cluster.daemon.node_message import to_message
from cluster.daemon.serving import Serving
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError, TrustError
from cluster.rpc_errors import reported
from cluster.trust.credentials import Credentials
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]

PROGRESS_S = 0.1


class ControlService(node_pb2_grpc.ControlServicer):
    """Status and commands. `stop` ends the daemon."""

    def __init__(
        self, state: NodeState, serving: Serving, credentials: Credentials, cluster_id: str, stop: asyncio.Event
    ) -> None:
        self._state = state
        self._serving = serving
        self._credentials = credentials
        self._cluster_id = cluster_id
        self._stop = stop

    async def Status(self, _request: pb.StatusRequest, context: Context) -> pb.ClusterStatus:  # noqa: N802
        """Say how the cluster stands, as this node sees it."""
        async with reported(context):
            self._require_own(context)
            return self._status()

    async def Load(self, request: pb.LoadRequest, context: Context) -> AsyncIterator[pb.LoadStatus]:  # noqa: N802
        """Load a model; the load goes on if the caller goes."""
        async with reported(context):
            self._require_own(context)
            await self._serving.load(request)
            while True:
                status = self._load_status()
                yield status
                if not status.serving.epoch:
                    raise ClusterError(f"{request.model} was unloaded before it was ready")
                if status.serving.state == pb.Serving.FAILED:
                    deployment = self._serving.deployment
                    raise (deployment and deployment.error) or ClusterError(status.serving.failure)
                if status.serving.state == pb.Serving.READY:
                    return
                await asyncio.sleep(PROGRESS_S)

    async def Unload(self, request: pb.UnloadRequest, context: Context) -> pb.UnloadReply:  # noqa: N802
        """Take the cluster's model away."""
        async with reported(context):
            self._require_own(context)
            return pb.UnloadReply(model=await self._serving.unload(request.reason))

    async def Stop(self, _request: pb.StopRequest, context: Context) -> pb.StopReply:  # noqa: N802
        """End this node."""
        async with reported(context):
            self._require_own(context)
            self._stop.set()
            return pb.StopReply()

    def _status(self) -> pb.ClusterStatus:
        state = self._state
        _, serving = state.serving
        reachable = serving.state == pb.Serving.READY and (
            serving.coordinator == state.own.node_id or serving.coordinator in state.present
        )
        own_deployment = self._serving.deployment
        return pb.ClusterStatus(
            cluster_id=self._cluster_id,
            insecure=self._credentials.insecure,
            own_node_id=state.own.node_id,
            nodes=[self._node(state.own.node_id), *(self._node(i) for i in sorted(state.membership.members))],
            serving=serving,
            coordinator_address=state.target(serving.coordinator, serving.port) if reachable else "",
            refused=[refusal.reason for refusal in state.membership.refused.values()],
            load_s=own_deployment.load_s if own_deployment else 0.0,
        )

    def _node(self, node_id: str) -> pb.NodeStatus:
        state = self._state
        member = state.membership.members.get(node_id)
        status = pb.NodeStatus(
            info=to_message(member.info if member else state.own),
            shown_name=state.name(node_id),
            state=str(member.state) if member else "present",
            holding=state.holding_of(node_id),
        )
        if member and member.link:
            status.latency_s, status.bytes_per_s = member.link.latency_s, member.link.bytes_per_s
        return status

    def _load_status(self) -> pb.LoadStatus:
        deployment = self._serving.deployment
        if deployment is None:  # another node has placed it
            return pb.LoadStatus(serving=self._state.serving[1])
        return pb.LoadStatus(
            serving=deployment.serving,
            nodes=[
                pb.NodeProgress(name=self._state.name(node_id), done_bytes=done, total_bytes=total)
                for node_id, (done, total) in deployment.progress.items()
            ],
            placement=json.dumps(deployment.placement.to_json()),
        )

    def _require_own(self, context: Context) -> None:
        caller = self._credentials.peer_id(context)
        if caller != self._state.own.node_id:
            raise TrustError(f"node {caller or '?'} may not command node {self._state.own.node_id}")

"""ControlService: the calls of this machine's own command line, over a Unix socket that only the node's owner can open.

It has no other port: what strangers and other nodes do on the network cannot shut it out, and they cannot call it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict

from cluster import control_socket
from cluster.daemon import diagnosis
from cluster.daemon.authority_message import removal_messages
from cluster.daemon.gateway_process import GatewayProcess
from cluster.daemon.keeping import Keeping
from cluster.daemon.pulling import Pulling
from cluster.daemon.rebalancing import Rebalancing
from cluster.daemon.serving import Serving
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError
from cluster.home import Home
from cluster.membership.node_info import is_node_id
from cluster.membership.node_message import links_to_messages, to_message
from cluster.rpc_errors import reported
from cluster.trust.credentials import SERVER_OPTIONS
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc
from mlx_moe.errors import InvalidRequestError

LIST_S = 30.0

GRACE_S = 1.0
"""Time for a command that is being answered, such as the one that stops the node, once the socket closes."""

Context = grpc.aio.ServicerContext[Any, Any]


@asynccontextmanager
async def served(home: Home, service: ControlService) -> AsyncIterator[Path]:
    """Serve the calls at a home's socket while the context lasts; yields its path. Raises ClusterError."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    node_pb2_grpc.add_ControlServicer_to_server(service, server)
    with control_socket.private_path(home) as path:
        try:
            server.add_insecure_port(control_socket.target(path))
        except RuntimeError as exc:
            raise ClusterError(f"no socket can be made at {path}: is $MOE_CLUSTER_HOME on a local disk?") from exc
    await server.start()
    try:
        yield path
    finally:
        await server.stop(GRACE_S)


class ControlService(node_pb2_grpc.ControlServicer):
    """Status and commands. `stop(for_good)` ends the daemon."""

    def __init__(
        self,
        state: NodeState,
        serving: Serving,
        rebalancing: Rebalancing,
        pulling: Pulling,
        gateway: GatewayProcess,
        keeping: Keeping,
        cluster_id: str,
        stop: Callable[[bool], None],
        *,
        insecure: bool,
    ) -> None:
        self._state = state
        self._serving = serving
        self._rebalancing = rebalancing
        self._pulling = pulling
        self._insecure = insecure
        self._gateway = gateway
        self._keeping = keeping
        self._cluster_id = cluster_id
        self._stop = stop

    async def Status(self, _request: pb.StatusRequest, context: Context) -> pb.ClusterStatus:  # noqa: N802
        """Return the cluster's status as this node sees it."""
        async with reported(context):
            return self._status()

    async def Load(self, request: pb.LoadRequest, context: Context) -> AsyncIterator[pb.LoadStatus]:  # noqa: N802
        """Load a model; the load continues if the caller disconnects."""
        async with reported(context):
            async for status in self._serving.load(request):
                yield status

    async def Unload(self, request: pb.UnloadRequest, context: Context) -> pb.UnloadReply:  # noqa: N802
        """Unload the cluster's model, and end a pull that this node runs."""
        async with reported(context):
            pulled = await self._pulling.end()
            return pb.UnloadReply(model=await self._serving.unload(request.reason) or pulled)

    async def Rebalance(self, request: pb.RebalanceRequest, context: Context) -> pb.RebalanceReply:  # noqa: N802
        """Move the cluster's model to a better placement, or only say which that is."""
        async with reported(context):
            return await self._rebalancing.move(request)

    async def Pull(self, request: pb.PullRequest, context: Context) -> AsyncIterator[pb.PullStatus]:  # noqa: N802
        """Copy a model to the disks of the cluster; it continues if the caller disconnects."""
        async with reported(context):
            async for status in self._pulling.pull(request):
                yield status

    async def ListAllModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ModelList:  # noqa: N802
        """Return the models on the disks of all present nodes, this one first."""
        async with reported(context):
            node_ids = [self._state.own.node_id, *sorted(self._state.present)]
            calls = (self._serving.stub(node_id).ListModels(request, timeout=LIST_S) for node_id in node_ids)
            found = await asyncio.gather(*calls, return_exceptions=True)
            lists = [one for one in found if isinstance(one, pb.ModelList)]
            return pb.ModelList(models=[model for one in lists for model in one.models])

    async def Serve(self, request: pb.ServeRequest, context: Context) -> pb.ServeReply:  # noqa: N802
        """Serve the HTTP APIs on this machine."""
        async with reported(context):
            options = MessageToDict(request, preserving_proto_field_name=True)
            return pb.ServeReply(url=await self._gateway.start({"port": 0, **options}))

    async def StopServing(  # noqa: N802
        self, _request: pb.StopServingRequest, context: Context
    ) -> pb.StopServingReply:
        """End the HTTP APIs of this machine."""
        async with reported(context):
            url = self._gateway.url
            await self._gateway.stop()
            return pb.StopServingReply(url=url)

    async def RemoveNode(  # noqa: N802
        self, request: pb.RemoveNodeRequest, context: Context
    ) -> pb.RemoveNodeReply:
        """Remove a node from the cluster."""
        async with reported(context):
            node_id = self._removable(request.name)
            was_keeper = await self._keeping.was_keeper(node_id)
            removal = self._keeping.remove(node_id, self._state.name(node_id))
            return pb.RemoveNodeReply(name=removal.name, kept_authority=was_keeper)

    async def Stop(self, request: pb.StopRequest, context: Context) -> pb.StopReply:  # noqa: N802
        """Stop this node."""
        async with reported(context):
            self._stop(request.for_good)
            return pb.StopReply()

    async def AboutNodes(self, _request: pb.AboutRequest, context: Context) -> pb.AboutNodesReply:  # noqa: N802
        """Return the clocks and versions of all present nodes that answer, this one's first."""
        async with reported(context):
            calls = (diagnosis.ask_about(self._serving.stub(node_id)) for node_id in sorted(self._state.present))
            told = await asyncio.gather(*calls, return_exceptions=True)
            others = [one for one in told if isinstance(one, pb.AboutNode)]
            return pb.AboutNodesReply(nodes=[diagnosis.about(self._state.own.node_id), *others])

    async def ReadNodeLog(self, request: pb.ReadNodeLogRequest, context: Context) -> pb.LogLines:  # noqa: N802
        """Return lines of a node's logs."""
        async with reported(context):
            node_id = diagnosis.node_named(self._state, request.node)
            return await diagnosis.ask_log(self._state, node_id, self._serving.stub(node_id), request.read)

    def _status(self) -> pb.ClusterStatus:
        state = self._state
        _, serving = state.serving
        reachable = serving.state == pb.Serving.READY and (
            serving.coordinator == state.own.node_id or serving.coordinator in state.present
        )
        return pb.ClusterStatus(
            cluster_id=self._cluster_id,
            insecure=self._insecure,
            own_node_id=state.own.node_id,
            nodes=[self._node(state.own.node_id), *(self._node(i) for i in sorted(state.membership.members))],
            serving=serving,
            coordinator_address=state.target(serving.coordinator, serving.port) if reachable else "",
            api_url=self._gateway.url,
            refused=[refusal.reason for refusal in state.membership.refused.values()],
            removed=removal_messages(state.removals),
        )

    def _removable(self, name: str) -> str:
        """Return the id of the node that a person names. Raises InvalidRequestError."""
        state = self._state
        known = [state.own.node_id, *state.membership.members]
        found = [node_id for node_id in known if name in (state.name(node_id), node_id)]
        if found == [state.own.node_id]:
            raise InvalidRequestError(f"{name} is this node: moe-cluster leave takes it out of the cluster")
        if found and found[0] not in state.membership.removed:
            return found[0]
        if is_node_id(name) and name not in state.membership.removed:
            return name  # of a node that was not here for long; its name is not known any more
        shown = ", ".join(state.name(i) for i in known[1:] if i not in state.membership.removed) or "no other one"
        gone = f"{name} is removed already" if found or name in state.membership.removed else f"there is no node {name}"
        raise InvalidRequestError(f"{gone}; nodes are: {shown}")

    def _node(self, node_id: str) -> pb.NodeStatus:
        state, now = self._state, time.monotonic()
        member = state.membership.members.get(node_id)
        status = pb.NodeStatus(
            info=to_message(member.info if member else state.own),
            shown_name=state.name(node_id),
            state=str(member.shown_state(now)) if member else "present",
            silent_s=member.silent_s(now) if member else 0.0,
            holding=state.holding_of(node_id),
            links=links_to_messages(state.links_of(node_id)),
            free_disk_bytes=state.free_disk_of(node_id),
            keeps_authority=node_id in state.keepers,
        )
        if member and member.link:
            status.latency_s, status.bytes_per_s = member.link.latency_s, member.link.bytes_per_s
        return status

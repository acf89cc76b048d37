"""NodeService: the calls of other nodes' daemons."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

import grpc

from cluster.daemon import diagnosis, outline_message, own_part
from cluster.daemon.copies import to_digests
from cluster.daemon.greeter import ECHO_METHOD, Greeter
from cluster.daemon.keeping import Keeping
from cluster.daemon.rebalancing import Rebalancing
from cluster.daemon.serving import Serving
from cluster.daemon.state import NodeState
from cluster.daemon.worker_host import WorkerHost
from cluster.errors import TrustError
from cluster.home import Home
from cluster.membership import ballot_message
from cluster.membership.address import of_caller, split
from cluster.membership.greeting import MAX_PORT, parsed
from cluster.membership.membership import MAX_MEMBERS, Greeted, Left
from cluster.model_list import of_this_machine, to_message
from cluster.printable import MAX_REASON, printable
from cluster.rpc_errors import reported
from cluster.trust.credentials import Credentials
from cluster.weights.sources import sources_of
from cluster.wire import node_pb2, node_pb2_grpc
from cluster.wire import worker_pb2 as pb
from mlx_moe.errors import InvalidRequestError

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]


class NodeService(node_pb2_grpc.NodeServicer):
    """Handles greetings, and runs a worker for other nodes."""

    def __init__(
        self,
        state: NodeState,
        greeter: Greeter,
        serving: Serving,
        rebalancing: Rebalancing,
        keeping: Keeping,
        credentials: Credentials,
        home: Home,
        worker_host: WorkerHost,
    ) -> None:
        self._state = state
        self._greeter = greeter
        self._serving = serving
        self._rebalancing = rebalancing
        self._keeping = keeping
        self._credentials = credentials
        self._home = home
        self._worker_host = worker_host

    async def Greet(self, request: node_pb2.Greeting, context: Context) -> node_pb2.Greeting:  # noqa: N802
        """Process a node's greeting; return this node's greeting."""
        async with reported(context):
            greeting = parsed(request, of_caller(context.peer(), MAX_PORT))
            info = greeting.info
            self._require_sender(info.node_id, context)
        at = of_caller(context.peer(), split(info.addresses[0])[1])
        self._state.apply(Greeted(info, at))
        refusal = self._state.membership.refusal(info)
        if not refusal:
            self._greeter.hear(greeting)
            self._greeter.hear_removals(greeting)
        return self._greeter.greeting(at, refusal)

    async def Leave(self, request: node_pb2.Farewell, context: Context) -> node_pb2.FarewellHeard:  # noqa: N802
        """Record that a node leaves; if it leaves the cluster for good, a keeper of the authority removes it."""
        async with reported(context):
            caller = self._credentials.peer_id(context)
            self._serving.voting.inherit(caller, ballot_message.from_message(request.ballot))
            self._state.apply(Left(caller))
            if request.for_good and self._keeping.authority is not None:
                self._keeping.remove(caller, self._state.name(caller))
        return node_pb2.FarewellHeard()

    async def Grant(self, request: node_pb2.GrantRequest, context: Context) -> node_pb2.GrantReply:  # noqa: N802
        """Vote on the caller's right to deploy under an epoch."""
        async with reported(context):
            term = ballot_message.term_from_message(request.term)
            self._require_sender(term.owner, context)
            refusal, before = await self._serving.voting.vote(term)
            return node_pb2.GrantReply(refusal=refusal, before=ballot_message.to_message(before))

    async def KeepAuthority(  # noqa: N802
        self, request: node_pb2.AuthorityCopy, context: Context
    ) -> node_pb2.AuthorityCopy:
        """Become a keeper of the cluster's authority, or learn what another keeper knows."""
        async with reported(context):
            return await self._keeping.receive(request)

    async def Inspect(self, request: node_pb2.WantedModel, context: Context) -> node_pb2.ModelCopy:  # noqa: N802
        """Return this node's copy of a model."""
        async with reported(context):
            is_guest = self._credentials.peer_id(context) != self._state.own.node_id
            copy = await asyncio.to_thread(self._serving.copies.find, request, is_guest=is_guest)
            return node_pb2.ModelCopy() if copy is None else copy.to_message()

    async def InspectPart(self, request: node_pb2.ModelPart, context: Context) -> node_pb2.Digests:  # noqa: N802
        """Return the digests of a part of a copy."""
        async with reported(context):
            return to_digests(await asyncio.to_thread(self._serving.copies.digests, request))

    async def Outline(  # noqa: N802
        self, request: node_pb2.OutlineRequest, context: Context
    ) -> AsyncIterator[node_pb2.OutlinePart]:
        """Yield the outline of a copy that was found."""
        async with reported(context):
            copy = self._serving.copies.known(request.content_hash)
            async for part in outline_message.sent(copy.directory, copy.content_hash, copy.digests):
                yield part

    async def Adopt(self, request: node_pb2.AdoptRequest, context: Context) -> node_pb2.AdoptReply:  # noqa: N802
        """Take the outline of a model."""
        async with reported(context):
            _require_few(request.holders)
            return await self._serving.acquiring.adopt(request)

    async def ListModels(  # noqa: N802
        self, _request: node_pb2.ListModelsRequest, context: Context
    ) -> node_pb2.ModelList:
        """Return the models on this node's disk."""
        async with reported(context):
            name = self._state.name(self._state.own.node_id)
            return to_message(await asyncio.to_thread(of_this_machine, self._home, name))

    async def Fetch(  # noqa: N802
        self, request: node_pb2.AdoptRequest, context: Context
    ) -> AsyncIterator[pb.LoadProgress]:
        """Copy this node's part of an adopted model to its disk."""
        async with reported(context):
            _require_few(request.holders)
            copy = self._serving.copies.known(request.content_hash)
            targets = await asyncio.gather(*map(self._state.meet, request.holders))
            peers = [
                pb.WeightPeer(node_id=i, name=self._state.name(i), target=target)
                for i, target in zip(request.holders, targets, strict=True)
            ]
            sources = await asyncio.to_thread(
                sources_of, copy.directory, peers, request.content_hash, self._credentials
            )
            async with self._worker_host.fetching:  # one that was cancelled ends first
                try:
                    async for progress in own_part.fetch(request, copy, self._state.own.node_id, sources):
                        self._state.holding.progress.CopyFrom(progress)
                        yield progress
                finally:
                    self._state.holding.ClearField("progress")

    async def RunWorker(  # noqa: N802
        self, commands: AsyncIterator[pb.WorkerCommand], context: Context
    ) -> AsyncIterator[pb.WorkerEvent]:
        """Run a worker for the owner of an epoch."""
        caller = self._credentials.peer_id(context)
        async with reported(context), aclosing(self._worker_host.run(commands, caller)) as events:
            async for event in events:
                yield event

    async def Deploy(self, request: node_pb2.DeployRequest, context: Context) -> node_pb2.DeployReply:  # noqa: N802
        """Start loading a model that this node coordinates."""
        async with reported(context):
            epoch = await self._serving.deploy(request, self._credentials.peer_id(context))
            return node_pb2.DeployReply(epoch=epoch)

    async def FollowLoad(  # noqa: N802
        self, request: node_pb2.FollowRequest, context: Context
    ) -> AsyncIterator[node_pb2.LoadStatus]:
        """Yield the progress of the model that this node coordinates, until it is ready."""
        async with reported(context):
            async for status in self._serving.follow(request.epoch):
                yield status

    async def Unload(self, request: node_pb2.UnloadRequest, context: Context) -> node_pb2.UnloadReply:  # noqa: N802
        """Unload the model that this node coordinates."""
        async with reported(context):
            caller, reason = self._credentials.peer_id(context), printable(request.reason, MAX_REASON)
            return node_pb2.UnloadReply(model=await self._serving.unload_for(caller, reason))

    async def About(self, _request: node_pb2.AboutRequest, _context: Context) -> node_pb2.AboutNode:  # noqa: N802
        """Return this node's clock and versions."""
        return diagnosis.about(self._state.own.node_id)

    async def ReadLog(self, request: node_pb2.ReadLogRequest, context: Context) -> node_pb2.LogLines:  # noqa: N802
        """Return lines of this node's logs."""
        async with reported(context):
            return await diagnosis.read_log(self._home, request)

    async def Rebalance(  # noqa: N802
        self, request: node_pb2.RebalanceRequest, context: Context
    ) -> node_pb2.RebalanceReply:
        """Move the model that this node coordinates to a better placement."""
        async with reported(context):
            return await self._rebalancing.move_own(request)

    def _require_sender(self, node_id: str, context: Context) -> None:
        caller = self._credentials.peer_id(context)
        if caller != node_id and not self._credentials.insecure:
            raise TrustError(f"node {self._state.name(caller)} greets as {self._state.name(node_id)}")


def _require_few(node_ids: Sequence[str]) -> None:
    """Raise InvalidRequestError for more nodes than a cluster has."""
    if len(node_ids) > MAX_MEMBERS + 1:
        raise InvalidRequestError(f"{len(node_ids)} nodes; a cluster has at most {MAX_MEMBERS + 1}")


class EchoService(grpc.GenericRpcHandler):
    """Receives bytes and answers with none, so that the sender can measure the link."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Return the handler of a method, for gRPC."""
        if handler_call_details.method != ECHO_METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self._echo)

    async def _echo(self, _request: bytes, _context: Context) -> bytes:
        return b""

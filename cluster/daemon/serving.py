"""Serving: the cluster's one model: the node that is asked places it, and the coordinator's node deploys it."""

from __future__ import annotations

import asyncio
import json
import logging
import shlex
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace

from cluster.daemon import placing
from cluster.daemon.acquiring import Acquiring
from cluster.daemon.channels import Channels
from cluster.daemon.copies import Copies, Copy
from cluster.daemon.deploying import OUTVOTED_S, Deploying, RunWorker
from cluster.daemon.deployment_events import Repair
from cluster.daemon.greeter import Greeter
from cluster.daemon.inspection import Inspection
from cluster.daemon.state import NodeState
from cluster.daemon.voting import Voting, lasts
from cluster.errors import ClusterError, OccupiedError, OutvotedError, PlacementError, TrustError
from cluster.home import Home
from cluster.placement import Latency, ModelCosts, Placement, validate, with_standby
from cluster.rpc_errors import translated
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc, worker_pb2
from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import AS_STORED, Recipe, uniform
from mlx_moe.checkpoint.source import SourceError
from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.errors import InvalidRequestError, MoeClusterError

log = logging.getLogger(__name__)

UNLOAD_S = 30.0

DEPLOY_S = 60.0
"""Timeout for the nodes of a placement to know each other, and for the previous model to be unloaded."""

PROGRESS_S = 0.1

LOOK_S = 0.5
LOOKS = 4
"""How often to check for active requests: a worker reports once a second, also those that have just ended."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A model's placement; the most tokens of a request, the nodes with whole copies, and this node's own copy."""

    placement: Placement
    context_tokens: int
    holders: list[str]
    own: Copy


@dataclass(frozen=True, slots=True)
class Lost:
    """A placement that has lost nodes, or links between nodes that are left."""

    placement: Placement
    node_ids: frozenset[str]
    links: frozenset[tuple[str, str]] = frozenset()


class Serving:
    """Loads at most one model at a time. `deployment` is the one that this node coordinates.

    `run_worker` runs this node's worker.
    """

    def __init__(
        self, state: NodeState, greeter: Greeter, channels: Channels, home: Home, run_worker: RunWorker
    ) -> None:
        self.deployment: Deploying | None = None
        self.copies = Copies(home)
        self.acquiring = Acquiring(state, self.stub, self.copies, home)
        self.voting = Voting(state, greeter, self.stub, home.ballot)
        self._state = state
        self._greeter = greeter
        self._channels = channels
        self._run_worker = run_worker
        self._running: asyncio.Task[None] | None = None
        self._one_placement_at_a_time = asyncio.Lock()
        self._one_deployment_at_a_time = asyncio.Lock()

    async def load(self, request: pb.LoadRequest) -> AsyncIterator[pb.LoadStatus]:
        """Load a model unless it is loaded already; yield the progress until it is ready.

        An idle model is replaced if the request says so. The load continues if the caller disconnects, and if this node
        stops, unless it holds a part of the model.

        Raises:
            ClusterError: another model is being loaded or used.
            OccupiedError: another model is idle, and the request does not allow replacing it.
            PlacementError: it does not fit.
            CheckpointError, InvalidRequestError, NodeLostError: before anything is loaded.
            MoeClusterError: loading failed.
        """
        async with self._one_placement_at_a_time:
            coordinator, epoch = await self._served_or_placed(request)
        call = self.stub(coordinator).FollowLoad(pb.FollowRequest(epoch=epoch))
        try:
            with translated(f"node {self._state.name(coordinator)}"):
                async for status in call:
                    if status.serving.state == pb.Serving.READY:
                        await self._greeter.ask_all()  # so that this node's status says it too
                    yield status
        finally:
            call.cancel()

    async def _served_or_placed(self, request: pb.LoadRequest) -> tuple[str, int]:
        """Return coordinator and epoch of the requested model, which is placed if it is not served, or taken over."""
        ends_at = time.monotonic() + OUTVOTED_S
        while True:
            await self._greeter.ask_all()
            try:
                return self._served(request) or await self._place(request)
            except OutvotedError:  # another node may be taking it over
                if time.monotonic() > ends_at:
                    raise
            await asyncio.sleep(LOOK_S)

    async def deploy(self, request: pb.DeployRequest, caller: str) -> int:
        """Start loading a model on a placement that this node coordinates. Raises as `load`, before it starts.

        Returns the epoch under which it is loaded.

        If this node coordinates the same model already, its workers keep what they hold of their new parts. For another
        node the model that is replaced must be idle, whatever that node has found: it may know less, or pretend to.
        """
        placement, is_own = Placement.parse(request.placement), caller == self._state.own.node_id
        if not is_own and placement.coordinator != self._state.own.node_id:
            raise InvalidRequestError("the placement has another coordinator than the node that is to deploy it")
        async with self._one_deployment_at_a_time:
            if request.epoch <= self._state.serving[1].epoch:
                raise ClusterError("another model was placed on the cluster at the same time: try again")
            await asyncio.gather(*(self._state.meet(node_id) for node_id in placement.node_ids))
            if not is_own:
                await self._require_no_answers()
            request.asked.asked_by = request.asked.asked_by or caller
            if self.deployment is not None and self.deployment.may_become(placement):
                request.epoch = await self.voting.win(placement.node_ids, by_person=True)
                self.deployment.reconfigure(placement, request)
                return request.epoch
            await self.unload(f"{placement.model} takes its place")  # only after the checks above
            with self.voting.placing():
                request.epoch = await self.voting.win(placement.node_ids, by_person=True)
                deployment = self.deployment = Deploying(
                    *(self._state, self._channels, placement, request, self._run_worker, self._without)
                )
            self._running = asyncio.create_task(self._run(deployment))
            return request.epoch

    async def follow(self, epoch: int) -> AsyncIterator[pb.LoadStatus]:
        """Yield the progress of the model that this node coordinates, until it is ready, in this epoch or a later one.

        Raises:
            MoeClusterError: loading failed, or the model was unloaded before it was ready.
        """
        deployment = self.deployment
        while deployment is not None and deployment is self.deployment and deployment.serving.epoch >= epoch:
            yield deployment.load_status
            if deployment.error is not None:
                raise deployment.error
            if deployment.serving.state == pb.Serving.READY:
                return
            await asyncio.sleep(PROGRESS_S)
        raise ClusterError(f"{deployment.placement.model if deployment else 'it'} was unloaded before it was ready")

    async def unload(self, reason: str) -> str:
        """Unload the cluster's model, whichever node coordinates it; return its name, "" if there is none."""
        await self._greeter.ask_all()
        coordinator, serving = self._state.serving
        if coordinator in ("", self._state.own.node_id):
            return await self.unload_own(reason)
        with translated(f"node {self._state.name(coordinator)}"):
            await self.stub(coordinator).Unload(pb.UnloadRequest(reason=reason), timeout=UNLOAD_S)
        await self._greeter.ask_all()  # so that this node's status says it too
        return serving.model

    async def unload_for(self, caller: str, reason: str) -> str:
        """Unload the model that this node coordinates, as another node asks; return its name, "" if there is none.

        A person may unload it on any node while it is idle. Otherwise only on a node that holds a part, or was asked to
        load it, also if other nodes have had it since; another one would end the answers of others.

        Raises:
            TrustError: it is in use, and not the caller's to unload.
        """
        deployment = self.deployment
        if deployment is None:
            return ""
        owners = {self._state.own.node_id, deployment.asked.asked_by, *deployment.placement.node_ids}
        is_idle = deployment.is_ready and not self._state.holding.stats.active_requests
        if caller not in owners and not is_idle and deployment.error is None:
            here = owners & {self._state.own.node_id, *self._state.present}
            names = ", ".join(sorted(self._state.name(node_id) for node_id in here))
            raise TrustError(
                f"{deployment.placement.model} is in use, and node {self._state.name(caller)} neither holds a part nor "
                f"loaded it: type `moe-cluster unload` on one of {names}, or when nobody is answered"
            )
        return await self.unload_own(reason)

    async def unload_own(self, reason: str) -> str:
        """Unload the model that this node coordinates; return its name, "" if there is none."""
        deployment, running = self.deployment, self._running
        if deployment is None or running is None:
            return ""
        deployment.end(f"{deployment.placement.model} is not served any more: {reason}")
        await running
        self.deployment = None
        self._state.own_serving = pb.Serving(epoch=0)
        return deployment.placement.model

    async def _run(self, deployment: Deploying) -> None:
        with suppress(MoeClusterError):  # reported by deployment.serving
            await deployment.run()

    def _served(self, request: pb.LoadRequest) -> tuple[str, int] | None:
        """Return coordinator and epoch of the requested model if it is served with these settings, else None."""
        coordinator, serving = self._state.serving
        is_served = (
            serving.model == request.model
            and request.draft in ("", serving.draft)
            and request.context_tokens <= serving.context_tokens
            and request.chunk_length in (0, serving.chunk_length)
            and request.latency_s in (0, serving.latency_s)
            and request.bits in (0, serving.bits)
            and request.mode in ("", serving.mode)
            and (serving.standby or not request.standby)
            and not request.placement
        )
        return (coordinator, serving.epoch) if coordinator and is_served and not _has_failed(serving) else None

    async def _require_room(self, request: pb.LoadRequest) -> None:
        """Raise ClusterError if the cluster serves a model that may not be replaced."""
        coordinator, serving = self._state.serving
        if not coordinator or _has_failed(serving):
            return
        await self._require_idle(serving)
        if serving.model != request.model and not request.replace:
            raise OccupiedError(
                f"the cluster serves {serving.model}, which is idle: --replace loads {request.model} in its "
                f"place, and so does moe-cluster up {shlex.quote(request.model)}"
            )

    async def placed(self, request: pb.LoadRequest, lost: Lost | None = None) -> Placed:
        """Return where a model would be, and which nodes have it. Raises as `load`, before it starts.

        If it was somewhere and nodes were `lost`, it stays where it can.
        """
        if lost is None and not request.placement:
            await self._greeter.wait_for_links()  # else the same plan looks worse as soon as they are known
        own = await self._own_copy(request) if lost is None else self.copies.known(lost.placement.content_hash)
        placement, context_tokens = await asyncio.to_thread(self._placement, request, own, lost)
        for node_id in placement.node_ids:
            await self._state.meet(node_id)  # before any node is called
        inspection = Inspection(self._state, self.stub, request.model, own)
        holders = await inspection.holders(placement.node_ids, placement.content_hash)
        return Placed(placement, context_tokens, holders, own)

    async def _place(self, request: pb.LoadRequest) -> tuple[str, int]:
        """Place a model and have its coordinator's node deploy it; return that node and the placement's epoch."""
        placed = await self.placed(request)
        placement, holders = placed.placement, placed.holders
        await self._require_room(request)  # after the placement: a missing or too large model is refused first
        await self.acquiring.give(request, placement, holders, placed.own)
        coordinator, deploy = placement.coordinator, self.to_deploy(request, placed, request)
        with translated(f"node {self._state.name(coordinator)}"):
            reply = await self.stub(coordinator).Deploy(deploy, timeout=DEPLOY_S)
        return coordinator, reply.epoch

    async def _without(self, former: Placement, repair: Repair) -> pb.DeployRequest:
        """Return what to deploy in place of a placement that this node coordinates, after a loss.

        Raises:
            MoeClusterError: the model does not fit the nodes that are left, or none of them has what was lost.
        """
        assert self.deployment is not None  # it asks
        draft, keep = self.deployment.serving.draft, self.deployment.keeps
        lost = Lost(former, repair.lost, repair.lost_links)
        return await self._instead(lost, draft, self.deployment.asked, keep=keep)

    async def take_over(self, load: worker_pb2.LoadShard, lost: frozenset[str], cause: MoeClusterError) -> None:
        """Deploy a model whose owner is lost, on what is left of it; `load` is what its workers were told.

        Raises:
            MoeClusterError: it does not fit, too few nodes agree, or this node deploys a model.
        """
        async with self._one_deployment_at_a_time:
            if lasts(self._state.own_serving):
                raise ClusterError(f"this node deploys {self._state.own_serving.model}")
            with self.voting.placing():
                former, asked = Placement.parse(load.placement), pb.LoadRequest.FromString(load.asked)
                deploy = await self._instead(Lost(former, lost), load.draft, asked, keep=load.keep)
                placement = Placement.parse(deploy.placement)
                deployment = self.deployment = Deploying(
                    *(self._state, self._channels, placement, deploy, self._run_worker, self._without, cause, lost)
                )
            self._running = asyncio.create_task(self._run(deployment))

    async def _instead(self, lost: Lost, draft: str, asked: pb.LoadRequest, *, keep: bool) -> pb.DeployRequest:
        former = lost.placement
        request = pb.LoadRequest(
            model=former.model, draft=draft, context_tokens=former.context_tokens, keep=keep, download=True
        )
        placed = await self.placed(request, lost)
        await self.acquiring.give(request, placed.placement, placed.holders, placed.own)
        deploy = self.to_deploy(request, placed, asked)
        deploy.epoch = await self.voting.win(placed.placement.node_ids, lost.node_ids, by_person=False)
        return deploy

    def to_deploy(self, request: pb.LoadRequest, placed: Placed, asked: pb.LoadRequest) -> pb.DeployRequest:
        """Return what to send to the coordinator's node; `asked` is what a person asked for."""
        return pb.DeployRequest(
            placement=json.dumps(placed.placement.to_json()),
            epoch=self._state.serving[1].epoch + 1,
            draft=request.draft,
            context_tokens=placed.context_tokens,
            holders=placed.holders,
            keep=request.keep,
            asked=asked,
        )

    def stub(self, node_id: str) -> node_pb2_grpc.NodeStub:
        """Return the gRPC stub of a node. Raises NodeLostError if its address is unknown."""
        return node_pb2_grpc.NodeStub(self._channels.get(node_id, self._state.target(node_id)))

    async def _require_no_answers(self) -> None:
        """Raise ClusterError if a model that would be replaced is in use."""
        coordinator, serving = self._state.serving
        if coordinator and not _has_failed(serving):
            await self._require_idle(serving)

    async def _require_idle(self, serving: pb.Serving) -> None:
        """Raise ClusterError if the cluster's model is loading, or still in use after its worker has reported again."""
        if serving.state == pb.Serving.LOADING:
            raise ClusterError(f"the cluster is loading {serving.model}: wait until it is there, or unload it")
        for _ in range(LOOKS):
            active = self._state.holding_of(serving.coordinator).stats.active_requests
            if not active:
                break
            await asyncio.sleep(LOOK_S)
            await self._greeter.ask_all()
        else:
            raise ClusterError(
                f"the cluster is answering {active} request{'s' if active > 1 else ''} with {serving.model}: try again "
                f"when it is done"
            )

    async def _own_copy(self, request: pb.LoadRequest) -> Copy:
        """Return this node's copy of a model, or the outline of another node's, of the hub's, or of what is kept here.

        Raises:
            InvalidRequestError: there is none.
            CheckpointError: it is damaged, or the hub does not answer.
        """
        try:
            return await asyncio.to_thread(self.copies.local, request.model)
        except InvalidRequestError as error:
            missing: MoeClusterError = error
        if (found := await self.acquiring.from_others(request.model)) is not None:
            return found
        if library.is_on_hub(request.model):
            repo_id, revision = library.on_hub(request.model, original=request.bits > 0)
            try:
                return await self.acquiring.from_hub(repo_id, revision)
            except SourceError as error:
                missing = SourceError(f"{request.model} is on no node, and {error}")
        if (kept := await asyncio.to_thread(self.acquiring.kept, request.model)) is not None:
            return kept
        raise missing

    def _placement(self, request: pb.LoadRequest, own: Copy, lost: Lost | None) -> tuple[Placement, int]:
        """Return a model's placement, and the most tokens of a request."""
        with Checkpoint.open(own.directory) as checkpoint:
            config = families.config_of(checkpoint)
        if lost is not None:
            placement = self._repaired(request, own, lost)
        elif request.placement:
            placement = Placement.parse(request.placement)
            validate(placement, config)
        else:
            placement = self._best_placement(request, own)
        return replace(placement, content_hash=placement.content_hash or own.content_hash), placing.request_tokens(
            config, placement
        )

    def _repaired(self, request: pb.LoadRequest, own: Copy, lost: Lost) -> Placement:
        """Return a placement without the lost nodes; those that came back just now get a part only if they must."""
        former = lost.placement
        costs = self._costs(request, own, former.recipe)
        left = [node for node in placing.capacities(self._state) if node.node_id not in lost.node_ids]
        trusted = [n for n in left if n.node_id in former.node_ids or self._state.trusts(n.node_id)]
        links = placing.links(self._state)
        links = replace(links, lost=links.lost | lost.links | {(b, a) for a, b in lost.links})
        with suppress(PlacementError):
            return placing.repaired(former, costs, trusted, links)
        return placing.repaired(former, costs, left, links)

    def _best_placement(self, request: pb.LoadRequest, own: Copy) -> Placement:
        recipe = uniform(request.bits or None, request.mode or None) if request.bits or request.mode else AS_STORED
        costs = self._costs(request, own, recipe)
        placement = placing.place(
            costs,
            placing.capacities(self._state),
            placing.links(self._state),
            request.context_tokens,
            request.concurrency or 1,
            _chunks(request),
        )
        if request.standby:
            placement = with_standby(placement, costs, placing.capacities(self._state))
        return replace(placement, recipe=recipe)

    def _costs(self, request: pb.LoadRequest, own: Copy, recipe: Recipe) -> ModelCosts:
        return placing.costs(request.model, own.directory, placing.float_bytes(self._state), recipe, request.draft)


def _chunks(request: pb.LoadRequest) -> ChunkRule | Latency | None:
    if request.latency_s:
        return Latency(request.latency_s)
    return ChunkRule.fixed(request.chunk_length) if request.chunk_length else None


def _has_failed(serving: pb.Serving) -> bool:
    return bool(serving.state == pb.Serving.FAILED)

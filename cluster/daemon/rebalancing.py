"""Rebalancing: moves the model that this node coordinates to a better placement, by command or at a quiet moment.

A model that ended since the rest was too small is loaded again when a node comes back. A move goes the way of every new
placement, so running answers continue and workers keep what they hold.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Hashable

from cluster import rebalance_message
from cluster.daemon import placing
from cluster.daemon.deploying import Deploying
from cluster.daemon.inspection import Inspection
from cluster.daemon.quiet import Comeback, Quiet, QuietRule
from cluster.daemon.serving import Placed, Serving
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError, NoClusterError, PlacementError
from cluster.placement import Placement, Rebalance
from cluster.rpc_errors import translated
from cluster.wire import node_pb2 as pb
from cluster.wire.worker_pb2 import WorkerStats
from mlx_moe import families
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.errors import MoeClusterError

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""How often to check for a quiet moment: as often as workers report."""

CALL_S = 60.0


class Rebalancing:
    """Makes plans for the model that this node coordinates. With a `rule` it follows them without a person's word."""

    def __init__(self, state: NodeState, serving: Serving, rule: QuietRule | None) -> None:
        self._state = state
        self._serving = serving
        self._quiet = None if rule is None else Quiet(rule)
        self._comeback = Comeback()

    async def run(self) -> None:
        """Look for quiet moments until cancelled."""
        while self._quiet is not None:
            await asyncio.sleep(LOOK_S)
            deployment = self._serving.deployment
            stats = self._coordinator_stats(deployment)
            self._quiet = self._quiet.see(
                now := time.monotonic(),
                is_ready=deployment is not None and deployment.is_ready,
                is_answering=stats.active_requests > 0,
                activity=(self._state.own_serving.epoch, stats.frames),
            )
            if deployment is not None and deployment.is_lost and (deployment.was_ready or self._comeback.is_awaited):
                await self._bring_back(deployment, now)
                continue
            self._comeback = self._comeback.over(self._nodes())
            if deployment is None or deployment.asked.placement:  # a person's own plan
                continue
            situation = self._situation()
            if self._quiet.is_due(now, situation, self._state.losses.newest()):
                self._quiet = self._quiet.looked(situation)
                await self._improve(deployment)

    async def move(self, request: pb.RebalanceRequest) -> pb.RebalanceReply:
        """Move the cluster's model, whichever node coordinates it.

        Raises:
            NoClusterError: no model is loaded.
            MoeClusterError: as `move_own`.
        """
        coordinator, serving = self._state.serving
        if not coordinator or serving.state != pb.Serving.READY:
            raise NoClusterError("no model is ready: moe-cluster status shows what is loaded")
        if coordinator == self._state.own.node_id:
            return await self.move_own(request)
        with translated(f"node {self._state.name(coordinator)}"):
            reply: pb.RebalanceReply = await self._serving.stub(coordinator).Rebalance(request, timeout=CALL_S)
        return reply

    async def move_own(self, request: pb.RebalanceRequest) -> pb.RebalanceReply:
        """Move the model that this node coordinates to the best placement, or only return that.

        Raises:
            NoClusterError: this node coordinates no model.
            MoeClusterError: no placement fits, or a node has none of what it would read.
        """
        deployment = self._serving.deployment
        if deployment is None or not deployment.is_ready:
            raise NoClusterError("this node coordinates no model that is ready")
        found = await self._found(deployment, trusted=False)
        epoch = 0 if request.dry_run or not found.changes else await self._change(deployment, found.placement)
        return rebalance_message.to_message(found, epoch)

    async def _bring_back(self, deployment: Deploying, now: float) -> None:
        """Load a model again that ended because nodes were lost, when one of them, or another one, is here."""
        nodes = self._nodes()
        self._comeback = self._comeback.see(nodes)
        if not self._comeback.is_due(now, nodes):
            return
        self._comeback = self._comeback.tried(now)
        log.info("event=loads_again model=%s after=%s", deployment.placement.model, deployment.error)
        try:
            async for _ in self._serving.load(deployment.asked):
                pass
        except MoeClusterError as error:
            log.info("event=not_loaded_again model=%s error=%s", deployment.placement.model, error)
            lost_at = self._state.losses.newest()
            if isinstance(error, PlacementError) and (lost_at is None or lost_at < now):
                self._comeback = self._comeback.refused(nodes)  # with all of them: one may have been lost meanwhile

    async def _improve(self, deployment: Deploying) -> None:
        """Move the model if that is worth it; what stands in the way is logged, and it is tried again later."""
        assert self._quiet is not None  # `run` calls it
        try:
            found = await self._found(deployment, trusted=True)
            log.info(
                "event=looked_for_better model=%s tokens_per_s=%.2f now=%.2f better=%s",
                *(found.former.model, found.tokens_per_s, found.former_tokens_per_s, found.is_better),
            )
            if found.is_better:
                if self._coordinator_stats(deployment).active_requests:
                    raise ClusterError("it began to answer")
                await self._change(deployment, found.placement)
                self._quiet = self._quiet.moved(time.monotonic())
        except MoeClusterError as error:
            log.info("event=not_moved model=%s error=%s", deployment.placement.model, error)
            self._quiet = self._quiet.failed(time.monotonic())

    async def _found(self, deployment: Deploying, *, trusted: bool) -> Rebalance:
        """Return the best placement; if `trusted`, only with nodes that were not lost just now."""
        former, asked = deployment.placement, deployment.asked
        copy = self._serving.copies.known(former.content_hash)
        nodes = placing.capacities(self._state)
        if trusted:
            nodes = [n for n in nodes if n.node_id in former.node_ids or self._state.trusts(n.node_id)]
        links, float_bytes = placing.links(self._state), placing.float_bytes(self._state)

        def find() -> Rebalance:
            costs = placing.costs(former.model, copy.directory, float_bytes, former.recipe, deployment.serving.draft)
            tokens, users = asked.context_tokens, asked.concurrency or 1
            return placing.rebalanced(former, costs, nodes, links, tokens, users, standby=asked.standby)

        return await asyncio.to_thread(find)

    async def _change(self, deployment: Deploying, placement: Placement) -> int:
        """Change a deployment to another placement of its model; return the new epoch.

        Raises:
            MoeClusterError: it has ended or changed meanwhile, or a node has none of what it would read.
        """
        former, serving = deployment.placement, self._serving
        own = serving.copies.known(former.content_hash)
        draft = deployment.serving.draft
        request = pb.LoadRequest(model=former.model, draft=draft, keep=deployment.keeps, download=True)
        inspection = Inspection(self._state, serving.stub, former.model, own)
        holders = await inspection.holders(placement.node_ids, former.content_hash)
        with Checkpoint.open(own.directory) as checkpoint:
            context_tokens = placing.request_tokens(families.config_of(checkpoint), placement)
        await serving.acquiring.give(request, placement, holders, own)
        if deployment is not serving.deployment or deployment.placement != former:
            raise ClusterError(f"{former.model} was placed in another way meanwhile: try again")
        deploy = serving.to_deploy(request, Placed(placement, context_tokens, holders, own), deployment.asked)
        await serving.deploy(deploy, self._state.own.node_id)
        return deploy.epoch

    def _nodes(self) -> set[tuple[str, int]]:
        """Return the other nodes that are here, by id and start."""
        infos = (member.info for member in self._state.present.values())
        return {(info.node_id, info.incarnation) for info in infos}

    def _coordinator_stats(self, deployment: Deploying | None) -> WorkerStats:
        coordinator = "" if deployment is None else deployment.placement.coordinator
        return self._state.holding_of(coordinator).stats

    def _situation(self) -> Hashable:
        """Return what a plan depends on: the served epoch and the nodes that may get a part."""
        infos = [self._state.own, *(member.info for member in self._state.present.values())]
        trusted = frozenset((info.node_id, info.offered_bytes) for info in infos if self._state.trusts(info.node_id))
        return self._state.own_serving.epoch, trusted

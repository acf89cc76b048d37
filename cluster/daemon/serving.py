"""Serving: the one model of the cluster, loaded and unloaded by whichever node is asked."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from dataclasses import replace

from cluster.daemon import placing
from cluster.daemon.deployment import Deployment
from cluster.daemon.greeter import Channels, Greeter
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError
from cluster.placement import Placement, read_costs, validate
from cluster.rpc_errors import translated
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc
from mlx_moe import families, json_file, library
from mlx_moe.draft import wants_mtp
from mlx_moe.errors import InvalidRequestError, MoeClusterError

log = logging.getLogger(__name__)

UNLOAD_S = 30.0

LOOK_S = 0.5
LOOKS = 4
"""A worker counts its requests once a second: one that has just ended is not to be in the way."""


class Serving:
    """Loads at most one model at a time. `deployment` is the one that this node has placed."""

    def __init__(self, state: NodeState, greeter: Greeter, channels: Channels) -> None:
        self.deployment: Deployment | None = None
        self._state = state
        self._greeter = greeter
        self._channels = channels
        self._running: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def load(self, request: pb.LoadRequest) -> None:
        """Begin to load a model, unless it is loaded already. One that nobody uses gives way.

        Raises:
            ClusterError: another model is being loaded or used.
            PlacementError: it does not fit.
            CheckpointError, InvalidRequestError, NodeLostError: before anything is loaded.
        """
        async with self._one_at_a_time:
            await self._greeter.ask_all()
            placer, serving = self._state.serving
            if placer and serving.state != pb.Serving.FAILED:
                is_served = serving.model == request.model and request.draft in ("", serving.draft)
                if is_served and not request.placement:
                    return
                await self._require_idle(placer, serving)
            placement = await asyncio.to_thread(self._placement, request)
            deployment = Deployment(self._state, self._channels, placement, self._state.newest_epoch + 1, request.draft)
            await deployment.inspect()
            await self.unload(f"{request.model} takes its place")  # not before it is known that this one can come
            self.deployment = deployment
            self._state.own_serving = deployment.serving
            self._running = asyncio.create_task(self._run(deployment))

    async def unload(self, reason: str) -> str:
        """Take away the cluster's model, whoever placed it; return which it was, "" if none."""
        await self._greeter.ask_all()
        placer, serving = self._state.serving
        if placer in ("", self._state.own.node_id):
            return await self.unload_own(reason)
        stub = node_pb2_grpc.NodeStub(self._channels.get(placer, self._state.target(placer)))
        with translated(f"node {self._state.name(placer)}"):
            await stub.Unload(pb.UnloadRequest(reason=reason), timeout=UNLOAD_S)
        return serving.model

    async def unload_own(self, reason: str) -> str:
        """Take away the model that this node has placed; return which it was, "" if none."""
        deployment, running = self.deployment, self._running
        if deployment is None or running is None:
            return ""
        await deployment.end(reason)
        await running
        self.deployment = None
        self._state.own_serving = pb.Serving(epoch=0)
        return deployment.placement.model

    async def _run(self, deployment: Deployment) -> None:
        with suppress(MoeClusterError):  # it is in deployment.serving, for whoever asks
            await deployment.run()

    async def _require_idle(self, placer: str, serving: pb.Serving) -> None:
        """Raise ClusterError where the cluster's model is used, and is so still when its worker has counted again."""
        name = self._state.name(placer)
        if serving.state == pb.Serving.LOADING:
            raise ClusterError(f"node {name} is loading {serving.model}: wait until it is there, or unload it")
        for _ in range(LOOKS):
            active = self._state.holding_of(serving.coordinator).stats.active_requests
            if not active:
                break
            await asyncio.sleep(LOOK_S)
            await self._greeter.ask_all()
        else:
            raise ClusterError(
                f"the cluster is answering {active} request{'s' if active > 1 else ''} with {serving.model}, loaded by "
                f"node {name}: try again when it is done"
            )

    def _placement(self, request: pb.LoadRequest) -> Placement:
        if request.placement:
            try:
                placement = Placement.from_json(json.loads(request.placement))
            except (ValueError, RecursionError) as exc:
                raise InvalidRequestError(f"the plan is not JSON: {exc}") from exc
            directory = library.locate(request.model)
            path = directory / "config.json"
            validate(placement, families.read_config(json_file.read(path), str(path)))
            return placement
        model = read_costs(request.model, float_bytes=placing.float_bytes(self._state))
        if not wants_mtp(request.draft):
            model = replace(model, mtp=None)
        return placing.place(
            model,
            placing.capacities(self._state),
            placing.links(self._state),
            request.context_tokens,
            request.concurrency or 1,
        )

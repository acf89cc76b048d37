"""Deployment: one model on the nodes of a placement, from the first byte loaded to the last given back.

Lives in the daemon of the node that coordinates, without which there is no model, whoever asked for it. Each node's
worker lives as long as a call of this daemon, so that nothing is left behind wherever one of the two ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from contextlib import suppress

import grpc

from cluster.daemon.greeter import Channels
from cluster.daemon.state import NodeState
from cluster.errors import NodeLostError
from cluster.placement import Placement
from cluster.rpc_errors import error_named, error_of
from cluster.wire import node_pb2, node_pb2_grpc
from cluster.wire import worker_pb2 as pb
from mlx_moe.errors import MoeClusterError

log = logging.getLogger(__name__)

FAREWELL_S = 8.0
"""For a worker to hear why it ends, to tell its clients, and to end."""

ROOT_CAUSE_S = 0.5
"""A worker that lost a link waits so long for the one at the other end to be heard of, which says better why."""

WorkerCall = grpc.aio.StreamStreamCall[pb.WorkerCommand, pb.WorkerEvent]


class Deployment:
    """A model placed on nodes.

    `serving` is how it stands, and `error` what it failed of.
    """

    def __init__(
        self, state: NodeState, channels: Channels, placement: Placement, deploy: node_pb2.DeployRequest
    ) -> None:
        self.placement = placement
        self.error: MoeClusterError | None = None
        self._node_ids = placement.node_ids
        self.serving = node_pb2.Serving(
            model=placement.model,
            epoch=deploy.epoch,
            state=node_pb2.Serving.LOADING,
            coordinator=placement.coordinator,
            node_ids=self._node_ids,
            draft=deploy.draft,
            context_tokens=deploy.context_tokens,
            chunk_length=placement.chunks.fixed_length,
        )
        self._state = state
        self._channels = channels
        self._progress: dict[str, pb.LoadProgress] = {}
        self._ports: dict[str, int] = {}
        self._n_connected = 0
        self._all_loaded = asyncio.Event()
        self._calls: list[WorkerCall] = []
        self._is_ending = False
        self._started = 0.0

    @property
    def load_status(self) -> node_pb2.LoadStatus:
        """How far it is."""
        return node_pb2.LoadStatus(
            serving=self.serving,
            nodes=[
                node_pb2.NodeProgress(name=self._state.name(i), done_bytes=p.done_bytes, total_bytes=p.total_bytes)
                for i, p in self._progress.items()
            ],
            placement=json.dumps(self.placement.to_json()),
        )

    async def meet(self) -> None:
        """See that all nodes are here. Raises NodeLostError."""
        for node_id in self._node_ids:
            await self._state.meet(node_id)

    async def run(self) -> None:
        """Load, and serve until `end`. Raises the MoeClusterError that ended it before."""
        self._started = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            for node_id in self._node_ids:
                tasks.create_task(self._hold(node_id))
        if self.error is not None:
            log.error("event=deployment_failed model=%s error=%s", self.placement.model, self.error)
            raise self.error

    async def end(self, reason: str, error: MoeClusterError | None = None) -> None:
        """Let all workers end, and those whose answers that cuts off know why; `run` returns when they have."""
        if self._is_ending:
            return
        self._is_ending, self.error = True, error
        if error is not None:
            self.serving.state, self.serving.failure = node_pb2.Serving.FAILED, reason
        self._all_loaded.set()  # whoever waits for it is done with
        for call in self._calls:
            with suppress(grpc.RpcError, asyncio.InvalidStateError):
                await call.write(pb.WorkerCommand(stop=pb.StopWorker(reason=reason)))
                await call.done_writing()
            asyncio.get_running_loop().call_later(FAREWELL_S, call.cancel)

    async def _hold(self, node_id: str) -> None:
        """Keep one node's worker, to its end; if that comes by itself, it is the end of the deployment."""
        name = self._state.name(node_id)
        stub = node_pb2_grpc.NodeStub(self._channels.get(node_id, self._state.target(node_id)))
        call: WorkerCall = stub.RunWorker()
        self._calls.append(call)
        connecting = asyncio.create_task(self._connect(call))
        try:
            await call.write(pb.WorkerCommand(load=self._load_command()))
            async for event in call:
                await self._take(node_id, name, event)
            raise NodeLostError(f"node {name} ended its worker")
        except grpc.RpcError as exc:
            error = error_of(exc, f"node {name}")
            await self.end(str(error), error)
        except MoeClusterError as error:
            await self.end(str(error), error)
            with suppress(grpc.RpcError):
                async for _ in call:  # until its process has ended: only then may another load begin
                    pass
        finally:
            connecting.cancel()

    async def _connect(self, call: WorkerCall) -> None:
        """Tell a worker where the others are, once all have opened their ports."""
        await self._all_loaded.wait()
        if not self._is_ending:
            workers = [
                pb.WorkerAddress(node_id=node_id, port=port, name=self._state.name(node_id))
                for node_id, port in self._ports.items()
            ]
            await call.write(pb.WorkerCommand(connect=pb.ConnectWorkers(workers=workers)))

    async def _take(self, node_id: str, name: str, event: pb.WorkerEvent) -> None:
        match event.WhichOneof("event"):
            case "progress":
                self._progress[node_id] = event.progress
            case "loaded":
                self._ports[node_id] = event.loaded.port
                if len(self._ports) == len(self._node_ids):
                    self.serving.port = self._ports[self.placement.coordinator]
                    self._all_loaded.set()
            case "connected":
                self._n_connected += 1
                if self._n_connected == len(self._node_ids):
                    self.serving.load_s = time.perf_counter() - self._started
                    self.serving.state = node_pb2.Serving.READY
                    log.info("event=ready model=%s seconds=%.2f", self.placement.model, self.serving.load_s)
            case "failure":
                if event.failure.code == NodeLostError.code:
                    await asyncio.sleep(ROOT_CAUSE_S)
                raise error_named(event.failure.code, f"node {name}: {event.failure.message}")

    def _load_command(self) -> pb.LoadShard:
        return pb.LoadShard(
            model=self.placement.model,
            epoch=self.serving.epoch,
            placement=json.dumps(self.placement.to_json()),
            draft=self.serving.draft,
        )

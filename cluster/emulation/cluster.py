"""A cluster of workers without daemons: real processes and links, started and ended here.

Daemons would disturb the measurement: on the two cores of a test machine they greet each other 56 times a second.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.client import RemoteModel
from cluster.daemon.worker_process import WorkerProcess, worker_process
from cluster.home import Home
from cluster.placement import Placement
from cluster.rpc_errors import error_named
from cluster.trust import Authority, MutualTLS, NodeKey
from cluster.wire import worker_pb2 as pb

HOST = "127.0.0.1"

MODULE = "cluster.emulation.worker"
"""What the worker processes run."""


@dataclass(slots=True)
class _Worker:
    """A worker and its progress."""

    process: WorkerProcess
    port: asyncio.Future[int]
    connected: asyncio.Future[None]

    async def listen(self) -> None:
        """Process the worker's events. Raises its error if it fails."""
        async for event in self.process.events():
            match event.WhichOneof("event"):
                case "loaded":
                    self.port.set_result(event.loaded.port)
                case "connected":
                    self.connected.set_result(None)
                case "disconnected" if event.disconnected.HasField("cause"):
                    raise error_named(event.disconnected.cause.code, event.disconnected.cause.message)
                case "failure":
                    raise error_named(event.failure.code, event.failure.message)


@asynccontextmanager
async def emulated_cluster(
    placement: Placement, named: Callable[[Mapping[str, str]], str], draft: str = ""
) -> AsyncIterator[RemoteModel]:
    """Start the workers of a placement; yield its model.

    `named` returns the model's name for the workers: a scenario, a stretched model or a real one. Its argument maps
    the placement's names of nodes to their ids.

    Raises:
        MoeClusterError: the error of a worker that failed.
    """
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moe-cluster-")))
        authority = Authority.create(directory / "authority")
        homes = {stage.node_id: Home(directory / stage.node_id) for stage in placement.stages}
        ids = {node_id: _certified(home, authority) for node_id, home in homes.items()}
        placed = _renamed(placement, ids)
        loop = asyncio.get_running_loop()
        stack.enter_context(_ungrouped())
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        workers = {}
        for name, home in homes.items():
            started = worker_process(
                *(home.path, ids[name], name, (HOST,)),
                insecure=False,
                log_path=home.logs / "worker.log",
                module=MODULE,
            )
            process = await stack.enter_async_context(started)
            workers[ids[name]] = _Worker(process, loop.create_future(), loop.create_future())
        listening = [tasks.create_task(worker.listen()) for worker in workers.values()]
        load = pb.LoadShard(model=named(ids), epoch=1, placement=json.dumps(placed.to_json()), draft=draft)
        for worker in workers.values():
            await worker.process.tell(pb.WorkerCommand(load=load))
        ports = {node_id: await worker.port for node_id, worker in workers.items()}
        addresses = [
            pb.WorkerAddress(node_id=ids[name], port=ports[ids[name]], target=f"{HOST}:{ports[ids[name]]}", name=name)
            for name in homes
        ]
        for worker in workers.values():
            await worker.process.tell(pb.WorkerCommand(connect=pb.ConnectWorkers(workers=addresses)))
        await asyncio.gather(*(worker.connected for worker in workers.values()))
        first = placement.coordinator
        credentials = MutualTLS(NodeKey.load(homes[first].identity).identity())
        model = await asyncio.to_thread(RemoteModel.connect, credentials, ids[first], f"{HOST}:{ports[ids[first]]}")
        try:
            yield model
        finally:
            model.close()
            for worker in workers.values():
                await worker.process.tell(pb.WorkerCommand(stop=pb.StopWorker(reason="the emulation ended")))
            await asyncio.wait(listening)


@contextmanager
def _ungrouped() -> Iterator[None]:
    """Raise the first error instead of a TaskGroup's ExceptionGroup."""
    try:
        yield
    except ExceptionGroup as group:
        raise group.exceptions[0] from None


def _certified(home: Home, authority: Authority) -> str:
    """Create a node's identity in the emulated cluster; return its id."""
    home.create()
    key = NodeKey.open(home.identity)
    key.adopt(authority.certify(key.private_key.public_key()), authority.certificate)
    return key.node_id


def _renamed(placement: Placement, ids: dict[str, str]) -> Placement:
    """Return a placement of whole layers with the nodes' ids instead of their names."""
    stages = tuple(replace(stage, node_id=ids[stage.node_id]) for stage in placement.stages)
    return replace(
        placement, stages=stages, node_bytes={ids[name]: nbytes for name, nbytes in placement.node_bytes.items()}
    )

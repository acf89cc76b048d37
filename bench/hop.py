"""Microseconds that a hop of the ring adds to raw TCP with the same bytes: python -m bench.hop [--insecure].

Runs real workers in processes of their own, with mutual TLS, checksums and arrays, and sends one position with the
bytes of DeepSeek-V3 in 16 bits. The stages have no layers, so that only the transport is measured. Both rings run in
alternation.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NoReturn

import grpc
import mlx.core as mx
import psutil

from bench.synthetic import DEEPSEEK, write_checkpoint
from bench.tcp_ring import tcp_ring
from cluster.daemon.worker_process import WorkerProcess, worker_process
from cluster.errors import NodeLostError
from cluster.home import Home
from cluster.placement import Placement, StagePlacement
from cluster.trust import SERVER_OPTIONS, Authority, Insecure, MutualTLS, NodeIdentity, NodeKey
from cluster.wire import worker_pb2 as pb
from cluster.worker.connections import DATA_OPTIONS, Connections
from cluster.worker.loading import LoadedShard, load
from cluster.worker.node_files import NodeFiles
from cluster.worker.parts import CoordinatorPart
from cluster.worker.process import SWITCH_S
from cluster.worker.role import Role
from mlx_moe.errors import MoeClusterError
from mlx_moe.pipeline.frame import Frame, FrameKind, Returned

HOST = "127.0.0.1"
STAGES = (2, 4, 8)
ROUNDS, TRIPS = 7, 200
IDLE_S = 5.0
EPOCH = 1

WIDTH = 3584
"""Numbers in float32, in which the CPU computes: 14,336 bytes, as many as 7,168 numbers of 16 bits."""

NARROW = DEEPSEEK | {
    "hidden_size": WIDTH,
    "vocab_size": 256,
    "num_hidden_layers": 1,
    "intermediate_size": 64,
    "num_attention_heads": 1,
    "kv_lora_rank": 64,
    "q_lora_rank": 64,
}


class FirstStage(CoordinatorPart):
    """The coordinator's part of the ring, driven by this program instead of clients."""

    async def round_trip_s(self, frame: Frame) -> float:
        """Send a frame around the ring; return the seconds until it is back as an array."""
        self._returned = asyncio.Event()
        started = time.perf_counter()
        await self._ring.send(frame)
        await self._returned.wait()
        return time.perf_counter() - started

    def _receive(self, returned: Returned) -> None:
        assert isinstance(returned, Frame)
        self._returned.set()


async def main(*, insecure: bool) -> None:
    """Print a row per number of stages: median microseconds per hop, and the largest CPU share of an idle worker."""
    print(f"{'stages':>6} {'raw TCP':>8} {'ring':>8} {'added us/hop':>13}  {'min..max of rounds':20} {'idle CPU':>9}")
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        checkpoint = Path(directory) / "narrow"
        write_checkpoint(checkpoint, NARROW)
        for n_stages in STAGES:
            async with ring(Path(directory) / str(n_stages), str(checkpoint), n_stages, insecure=insecure) as (
                first,
                workers,
            ):
                idle = await _idle_share(workers)
                raw_us, ring_us = await _alternate(first, n_stages)
            added = [b - a for a, b in zip(raw_us, ring_us, strict=True)]
            print(
                f"{n_stages:6} {statistics.median(raw_us):8.0f} {statistics.median(ring_us):8.0f} "
                f"{statistics.median(added):13.0f}  {f'{min(added):.0f}..{max(added):.0f}':20} {idle:9.1%}",
                flush=True,
            )


async def _alternate(first: FirstStage, n_stages: int) -> tuple[list[float], list[float]]:
    """Return the median microseconds per hop of each round, for raw TCP and for the ring."""
    frame = Frame(uuid.uuid4().hex, 0, mx.random.normal((1, WIDTH)), FrameKind.DECODE, serial=1)
    mx.eval(frame.hidden_states)
    raw_us, ring_us = [], []
    with tcp_ring(n_stages, bytes(frame.hidden_states.nbytes)) as raw:
        for _ in range(ROUNDS):
            raw_us.append(statistics.median(raw.round_trip_s() for _ in range(TRIPS)) / n_stages * 1e6)
            trips = [await first.round_trip_s(frame) for _ in range(TRIPS)]
            ring_us.append(statistics.median(trips) / n_stages * 1e6)
    return raw_us, ring_us


async def _idle_share(workers: Sequence[WorkerProcess]) -> float:
    processes = [psutil.Process(worker.pid) for worker in workers]
    for process in processes:
        process.cpu_percent()
    await asyncio.sleep(IDLE_S)
    return max(process.cpu_percent() for process in processes) / 100


@asynccontextmanager
async def ring(
    base: Path, checkpoint: str, n_stages: int, *, insecure: bool
) -> AsyncIterator[tuple[FirstStage, list[WorkerProcess]]]:
    """Open a ring whose first stage is in this process and whose others are in worker processes."""
    homes = _enrolled(base, n_stages)
    stages = tuple(StagePlacement(node_id, range(0)) for node_id in homes)
    placement = Placement(checkpoint, "", stages, 1, 1, 1, {})
    first_id, *others = homes
    credentials = Insecure(first_id) if insecure else MutualTLS(NodeIdentity.load(homes[first_id].identity))
    async with AsyncExitStack() as stack:
        server = grpc.aio.server(options=(*SERVER_OPTIONS, *DATA_OPTIONS))
        ports = {first_id: credentials.add_port(server, f"{HOST}:0")}
        workers, events = [], {}
        for node_id in others:
            path = homes[node_id].path
            running = worker_process(path, node_id, node_id, (HOST,), insecure=insecure, log_path=path / "log")
            workers.append(await stack.enter_async_context(running))
            events[node_id] = workers[-1].events()
        loading = pb.LoadShard(model=checkpoint, epoch=EPOCH, placement=json.dumps(placement.to_json()))
        for worker in workers:
            await worker.tell(pb.WorkerCommand(load=loading))
        for node_id in others:
            ports[node_id] = (await _event(events[node_id], "loaded")).loaded.port
        addresses = [pb.WorkerAddress(node_id=i, target=f"{HOST}:{port}", name=i) for i, port in ports.items()]
        for worker in workers:
            await worker.tell(pb.WorkerCommand(connect=pb.ConnectWorkers(workers=addresses)))
        role = Role.of(placement, first_id)
        connections = Connections(credentials, addresses, EPOCH, _raise)
        stack.push_async_callback(connections.close)
        loaded = load(NodeFiles(checkpoint), role, lambda *_: None)
        assert isinstance(loaded, LoadedShard)  # it leads a stage
        first = FirstStage(loaded, role, first_id, EPOCH, credentials, connections, None, None)
        first.serve(server)
        await server.start()
        stack.push_async_callback(server.stop, None)
        await first.connect()
        stack.callback(first.interrupt, NodeLostError("the benchmark is over"))
        for node_id in others:
            await _event(events[node_id], "connected")
        stack.callback(asyncio.create_task(first.run()).cancel)
        yield first, workers


def _enrolled(base: Path, n_nodes: int) -> dict[str, Home]:
    """Return homes, by node id, with certificates of one authority."""
    authority = Authority.create(base / "authority")
    homes = {}
    for number in range(n_nodes):
        home = Home(base / str(number))
        home.create()
        key = NodeKey.open(home.identity)
        key.adopt(authority.certify(key.private_key.public_key()), authority.certificate)
        homes[key.node_id] = home
    return homes


async def _event(events: AsyncIterator[pb.WorkerEvent], kind: str) -> pb.WorkerEvent:
    """Return the worker's next event of a kind. Raises MoeClusterError if the worker fails or ends."""
    async for event in events:
        if event.WhichOneof("event") == kind:
            return event
        if event.HasField("failure"):
            raise MoeClusterError(event.failure.message)
    raise MoeClusterError("a worker ended")


def _raise(error: MoeClusterError) -> NoReturn:
    raise error


if __name__ == "__main__":
    sys.setswitchinterval(SWITCH_S)
    asyncio.run(main(insecure="--insecure" in sys.argv[1:]))

"""Worker: the process that holds a part of a model. Told by its daemon, it loads, connects, serves, and ends.

Commands come by standard input, events go by standard output, see `pipe`; what is for people goes to standard error.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import grpc

from cluster.errors import NodeLostError
from cluster.home import Home
from cluster.membership.listening import Listening
from cluster.trust import Insecure, MutualTLS, NodeIdentity
from cluster.trust.credentials import SERVER_OPTIONS, Credentials
from cluster.wire import worker_pb2 as pb
from cluster.worker import pipe
from cluster.worker.connections import DATA_OPTIONS, Connections
from cluster.worker.loading import Loaded
from cluster.worker.parts import Part, part_of
from cluster.worker.role import Role
from mlx_moe.checkpoint.loader import Progress
from mlx_moe.errors import MoeClusterError

log = logging.getLogger("cluster.worker")

STATS_S = 1.0
PROGRESS_S = 0.1

GRACE_S = 1.0
"""For clients to take the last news of their answers."""

SWITCH_S = 5e-5
"""Of the interpreter's lock: with the default of 5 ms a waking thread may cost a hop as much."""

Load = Callable[[str, Role, Progress, str, str], Loaded]
"""Loads a role's part of a model: as `loading.load`, or in place of it."""


class Worker:
    """One life: from the first command to the last event. `events` is a file descriptor."""

    def __init__(
        self, load: Load, node_id: str, name: str, listening: Listening, credentials: Credentials, events: int
    ) -> None:
        self._load = load
        self._node_id = node_id
        self._name = name
        self._listening = listening
        self._credentials = credentials
        self._events = events
        self._failed: asyncio.Future[MoeClusterError] = asyncio.get_running_loop().create_future()
        self._done_bytes = 0

    async def run(self, commands: asyncio.StreamReader) -> None:
        """Load, connect and serve as told; report what fails."""
        with suppress(BrokenPipeError):  # the daemon is gone: there is nobody to load or to work for
            try:
                await self._live(commands)
            except MoeClusterError as error:
                self._report(pb.WorkerEvent(failure=pb.WorkerFailure(code=error.code, message=str(error))))

    async def _live(self, commands: asyncio.StreamReader) -> None:
        command = await pipe.read(commands, pb.WorkerCommand())
        if command is None:
            return
        told = command.load
        role = Role.read(told.placement, self._node_id)
        loaded = self._load(told.directory or told.model, role, self._progress, told.draft, told.stamp)
        server = grpc.aio.server(options=(*SERVER_OPTIONS, *DATA_OPTIONS))
        port = self._listening.bind(lambda address: self._credentials.add_port(server, address))
        self._report(
            pb.WorkerEvent(
                loaded=pb.ShardLoaded(port=port, weights_bytes=loaded.weights_bytes, experts=loaded.n_experts)
            )
        )
        workers = await self._workers(commands)
        if workers is None:
            return
        connections = Connections(self._credentials, workers, self._fail)
        part = part_of(loaded, role, self._name, told.epoch, self._credentials, connections)
        part.serve(server)
        await server.start()
        reason = "its worker failed"
        try:
            reason = await self._serve(part, commands)
        except MoeClusterError as error:
            reason = str(error)
            raise
        except Exception:
            log.exception("event=crashed")  # now: what follows may not come to its end
            raise
        finally:
            await part.close(NodeLostError(reason))
            await connections.close()  # so that the streams to others end, and no server has to cut them off
            await server.stop(GRACE_S)

    async def _workers(self, commands: asyncio.StreamReader) -> Sequence[pb.WorkerAddress] | None:
        """Return where all workers listen, once they do; None if this one is to end before."""
        command = await pipe.read(commands, pb.WorkerCommand())
        if command is None or not command.HasField("connect"):
            return None
        return command.connect.workers

    async def _serve(self, part: Part, commands: asyncio.StreamReader) -> str:
        """Work until told to stop; return why, for those who wait for answers. Raises what ends it before that."""
        stopped = asyncio.create_task(pipe.read(commands, pb.WorkerCommand()))
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, stopped.cancel)
        working = asyncio.create_task(self._work(part))
        ends = (stopped, self._failed, working)
        try:
            while True:
                self._report(pb.WorkerEvent(stats=part.stats()))
                done, _ = await asyncio.wait(ends, timeout=STATS_S, return_when="FIRST_COMPLETED")
                if stopped in done:
                    command = None if stopped.cancelled() else stopped.result()
                    return command.stop.reason if command else "the node that loaded the model released it"
                if self._failed in done:
                    raise self._failed.result()
                if working in done:
                    working.result()
        finally:
            working.cancel()
            await asyncio.wait((working,))

    async def _work(self, part: Part) -> None:
        await part.connect()
        self._report(pb.WorkerEvent(connected=pb.WorkersConnected()))
        await part.run()

    def _fail(self, error: MoeClusterError) -> None:
        if not self._failed.done():
            self._failed.set_result(error)

    def _progress(self, done: int, total: int) -> None:
        if done == total or done - self._done_bytes >= total // 200:
            self._done_bytes = done
            self._report(pb.WorkerEvent(progress=pb.LoadProgress(done_bytes=done, total_bytes=total)))

    def _report(self, event: pb.WorkerEvent) -> None:
        os.write(self._events, pipe.framed(event))


def main(load: Load) -> None:
    """Run a worker between standard input and output. Arguments: HOME NODE_ID NAME HOST,... [--insecure]."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    sys.setswitchinterval(SWITCH_S)
    asyncio.run(_main(load, *sys.argv[1:5], insecure="--insecure" in sys.argv[5:]))


async def _main(load: Load, home: str, node_id: str, name: str, hosts: str, *, insecure: bool) -> None:
    events = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whoever prints does not disturb the daemon
    commands = asyncio.StreamReader(limit=pipe.MAX_MESSAGE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    identity = Home(Path(home)).identity
    credentials = Insecure(node_id) if insecure else MutualTLS(NodeIdentity.load(identity))
    listening = Listening(tuple(hosts.split(",")))
    await Worker(load, node_id, name, listening, credentials, events).run(commands)

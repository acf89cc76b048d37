"""Worker: the process that holds a part of a model. It loads, connects, serves and ends at its daemon's commands.

If it coordinates, clients and their answers outlive an epoch: they wait while a lost part is loaded elsewhere, and
continue in the next epoch. It reads commands from standard input and writes events to standard output, see `pipe`; its
log goes to standard error.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster import log_files
from cluster.errors import MovedError, NodeLostError, UnloadedError
from cluster.home import Home
from cluster.membership.listening import Listening
from cluster.trust import Insecure, MutualTLS, RemovedNodes, StoredIdentity
from cluster.trust.credentials import Credentials
from cluster.uses import Using
from cluster.weights.sources import sources_of
from cluster.wire import worker_pb2 as pb
from cluster.worker import pipe
from cluster.worker.coordinator_service import CoordinatorService
from cluster.worker.epoch import GRACE_S, Epoch
from cluster.worker.loading import Loaded
from cluster.worker.node_files import NodeFiles, Progress
from cluster.worker.read_bytes import ReadBytes
from cluster.worker.role import Role
from cluster.worker.watchdog import Watchdog
from mlx_moe.checkpoint.held import Held
from mlx_moe.checkpoint.source import WeightSource
from mlx_moe.errors import MoeClusterError
from mlx_moe.pipeline.stage import Past

log = logging.getLogger("cluster.worker")

STATS_S = 1.0

PORT_S = 2.0
"""How long the server of a former epoch may take to close its port."""

REASON_S = 0.2
"""How long to wait for the command that says why a load was interrupted."""

SWITCH_S = 5e-5
"""The interpreter's switch interval: with the default of 5 ms a waking thread may delay a hop by that much."""

Load = Callable[[NodeFiles, Role, Progress, str, Held], Loaded]
"""Loads a role's part of a model: `loading.load`, or an emulated one."""


class Worker:
    """Runs from the first command to the last event. `events` is a file descriptor."""

    def __init__(
        self, load: Load, node_id: str, name: str, listening: Listening, credentials: Credentials, events: int
    ) -> None:
        self._load = load
        self._node_id = node_id
        self._name = name
        self._listening = listening
        self._credentials = credentials
        self._events = events
        self._one_event_at_a_time = threading.Lock()
        self._epoch: Epoch | None = None
        self._interrupted: CoordinatorService | None = None
        self._ending: set[asyncio.Task[None]] = set()  # servers of former epochs, which answers still use
        self._port = 0
        self._done_bytes = 0
        self._read_bytes = ReadBytes()
        self._using: Using | None = None

    async def run(self, commands: asyncio.StreamReader) -> None:
        """Execute commands until `stop`; report errors."""
        Watchdog(lambda: None if self._epoch is None else self._epoch.watch, self._report).start()
        end = pb.StopWorker(reason="its worker failed")
        with suppress(BrokenPipeError):  # the daemon has ended
            try:
                while (command := await self._next(commands)).WhichOneof("command") != "stop":
                    await self._obey(command)
                end = command.stop
            except _LoadInterrupted:
                end = await self._interruption(commands)
            except MoeClusterError as error:
                end = pb.StopWorker(reason=str(error))
                self._report(pb.WorkerEvent(failure=_failure(error)))
            except Exception:
                log.exception("event=crashed")  # logged now: disconnecting may not finish
                raise
            finally:
                ended = UnloadedError(end.reason) if end.is_unloaded else NodeLostError(end.reason)
                await self._interrupt(ended)
                await self._end_answers(ended)

    async def _next(self, commands: asyncio.StreamReader) -> pb.WorkerCommand:
        """Wait for a command; meanwhile report statistics, and close an epoch that lost a link. Raises other errors."""
        reading = asyncio.create_task(pipe.read(commands, pb.WorkerCommand()))
        while not reading.done():
            epoch = self._epoch
            if epoch is None or (stats := epoch.stats()) is None:
                await asyncio.wait((reading,))
                continue
            read = self._read_bytes
            stats.disk_bytes, stats.peer_bytes, stats.hub_bytes = read.disk, read.peers, read.hub
            self._report(pb.WorkerEvent(stats=stats))
            with _ended_by_signals(reading):
                await asyncio.wait((reading, epoch.ended), timeout=STATS_S, return_when="FIRST_COMPLETED")
            if epoch.ended.done() and not reading.done():
                await self._lose(epoch.ended.result())
        command = None if reading.cancelled() else reading.result()
        return command or pb.WorkerCommand(stop=pb.StopWorker(reason=f"the daemon of node {self._name} has ended"))

    async def _interruption(self, commands: asyncio.StreamReader) -> pb.StopWorker:
        """Return why a load was interrupted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(REASON_S):
                command = await pipe.read(commands, pb.WorkerCommand())
                if command is not None and command.stop.reason:
                    return command.stop
        return pb.StopWorker(reason="its worker was ended while it loaded")

    async def _obey(self, command: pb.WorkerCommand) -> None:
        match command.WhichOneof("command"):
            case "load":
                await self._hold(command.load, Role.read(command.load.placement, self._node_id), {}, None)
            case "connect":
                await self._connect(command.connect)
            case "reconfigure":
                moved = MovedError(command.reconfigure.cause)
                await self._interrupt(moved)
                if self._interrupted is not None:
                    self._interrupted.answering.interrupt(moved)  # a better reason than that of a lost link
                role = Role.read(command.reconfigure.placement, self._node_id)
                if not role.coordinates:
                    await self._end_answers(MovedError(f"{moved}: ask again"))
                await self._hold(command.reconfigure, role, *self._release(role))

    async def _hold(self, told: pb.LoadShard, role: Role, held: Held, past: Past | None) -> None:
        """Load a part, reusing the arrays in `held` and what its stage left, and open a port for it."""
        self._done_bytes = 0
        with _interrupted_by_sigterm():
            loaded = self._load(self._files(told, role), role, self._progress, told.draft, held)
        self._read_bytes.loaded()
        port = await self._former_port() if role.coordinates else 0
        self._use(told.conversion or told.directory)
        epoch = self._epoch = Epoch(
            told.epoch, loaded, role, self._name, self._listening, self._credentials, port, told.memory_bytes, past
        )
        self._port = epoch.port
        held_now = pb.ShardLoaded(
            port=epoch.port,
            weights_bytes=loaded.weights_bytes,
            experts=loaded.n_experts,
            epoch=epoch.number,
            spare_bytes=loaded.spare_bytes,
        )
        self._report(pb.WorkerEvent(loaded=held_now))

    async def _former_port(self) -> int:
        """Return the port at which clients know this worker, 0 if it had none or it does not become free."""
        ends_at = time.monotonic() + PORT_S
        while self._port and not self._listening.is_free(self._port):
            if time.monotonic() > ends_at:
                return 0
            await asyncio.sleep(PORT_S / 50)
        return self._port

    def _use(self, directory: str) -> None:
        """Keep a directory from being deleted, since another part may be read from it; let go of the one before."""
        if self._using is not None:
            self._using.close()
        self._using = Using(Path(directory)) if directory else None  # an emulated model has none

    def _files(self, told: pb.LoadShard, role: Role) -> NodeFiles:
        """Return what to read a part from."""
        sources: list[WeightSource] = []
        if told.is_outline:
            content_hash = role.placement.content_hash
            sources = self._read_bytes.counting(
                sources_of(Path(told.directory), told.peers, content_hash, self._credentials)
            )
        conversion = Path(told.conversion) if told.conversion else None
        model = told.directory or told.model
        return NodeFiles(model, told.stamp, sources, keep=told.keep and bool(sources), conversion=conversion)

    def _release(self, role: Role) -> tuple[Held, Past | None]:
        """Release the part; return its arrays, and what a stage with another role continues with."""
        assert self._epoch is not None  # a worker is told to load first
        released = self._epoch.loaded.arrays, self._epoch.past_for(role)
        self._epoch = None
        gc.collect()  # parts, services and tasks are in reference cycles that hold arrays
        return released

    async def _connect(self, told: pb.ConnectWorkers) -> None:
        assert self._epoch is not None  # a worker is told to load first
        connected = pb.WorkersConnected(epoch=self._epoch.number)
        interrupted, self._interrupted = self._interrupted, None
        await self._epoch.connect(told.workers, lambda: self._report(pb.WorkerEvent(connected=connected)), interrupted)

    async def _lose(self, error: BaseException) -> None:
        """Interrupt an epoch that lost a link; its arrays and answers wait for the next one. Raises any other error."""
        if not isinstance(error, NodeLostError):
            raise error
        await self._interrupt(error, _failure(error))

    async def _interrupt(self, error: MoeClusterError, cause: pb.WorkerFailure | None = None) -> None:
        if self._epoch is None:
            return
        disconnected = pb.WorkerDisconnected(epoch=self._epoch.number, cause=cause)
        stopped = await self._epoch.interrupt(error, lambda: self._report(pb.WorkerEvent(disconnected=disconnected)))
        if stopped is not None:
            self._interrupted, ending = stopped
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end_answers(self, error: MoeClusterError) -> None:
        """End the answers that wait, and let their readers and those of former epochs read the end."""
        if self._interrupted is not None:
            self._interrupted.close(error)
            self._interrupted = None
        if self._ending:
            await asyncio.wait(self._ending, timeout=GRACE_S)

    def _progress(self, source: str, done: int, total: int) -> None:
        self._read_bytes.progress(source, total)
        if done == total or abs(done - self._done_bytes) >= total // 200:  # after what was kept, it begins anew
            self._done_bytes = done
            progress = pb.LoadProgress(done_bytes=done, total_bytes=total, source=source)
            self._report(pb.WorkerEvent(progress=progress))

    def _report(self, event: pb.WorkerEvent) -> None:
        with self._one_event_at_a_time:
            os.write(self._events, pipe.framed(event))


def _failure(error: MoeClusterError) -> pb.WorkerFailure:
    return pb.WorkerFailure(code=error.code, message=str(error), node_id=error.node_id or "")


@contextmanager
def _ended_by_signals(reading: asyncio.Task[pb.WorkerCommand | None]) -> Iterator[None]:
    """Treat SIGTERM and SIGINT as the end of the commands."""
    loop, signals = asyncio.get_running_loop(), (signal.SIGTERM, signal.SIGINT)
    for signum in signals:
        loop.add_signal_handler(signum, reading.cancel)
    try:
        yield
    finally:
        for signum in signals:
            loop.remove_signal_handler(signum)


class _LoadInterrupted(BaseException):
    """SIGTERM came while a part was loaded. No Exception, as KeyboardInterrupt: nothing that reads files handles it."""


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """Raise _LoadInterrupted in the block when SIGTERM comes."""

    def interrupt(_signum: int, _frame: object) -> None:
        raise _LoadInterrupted

    former = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def main(load: Load) -> None:
    """Run a worker between standard input and output. Arguments: HOME NODE_ID NAME HOST,... [--insecure]."""
    log_file = log_files.LogFile(Home(Path(sys.argv[1])).logs / log_files.WORKER, takes_stderr=True)
    logging.basicConfig(level=logging.INFO, handlers=[log_file])
    faulthandler.enable()  # a crash in native code says where
    sys.setswitchinterval(SWITCH_S)
    asyncio.run(_main(load, *sys.argv[1:5], insecure="--insecure" in sys.argv[5:]))
    logging.shutdown()
    os._exit(0)  # Python and MLX would wait for a layer that is still computed


async def _main(load: Load, home: str, node_id: str, name: str, hosts: str, *, insecure: bool) -> None:
    events = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that prints are not read as events
    commands = asyncio.StreamReader(limit=pipe.MAX_MESSAGE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    credentials = Insecure(node_id) if insecure else _certified(Home(Path(home)))
    listening = Listening(tuple(hosts.split(",")))
    await Worker(load, node_id, name, listening, credentials, events).run(commands)


def _certified(home: Home) -> Credentials:
    """Return the credentials of a home's node; the daemon renews its certificate and lists the removed nodes."""
    identity = StoredIdentity(home.identity)
    return MutualTLS(identity, RemovedNodes(home.removed, identity().ca_certificate))

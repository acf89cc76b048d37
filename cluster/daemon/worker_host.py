"""WorkerHost: runs this node's one worker, for the owner of a granted epoch, as long as that holds a call.

An owner whose call broke attaches itself to its worker again. A worker whose owner is gone is an orphan: it keeps what
it has loaded for ORPHAN_S, and the owner of a later epoch of the same model adopts it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field

from cluster import log_files
from cluster.daemon import own_part
from cluster.daemon.serving import Serving
from cluster.daemon.state import NodeState
from cluster.daemon.worker_process import WorkerProcess, worker_process
from cluster.errors import ClusterError, MovedError, NodeLostError, TrustError
from cluster.home import Home
from cluster.membership.listening import Listening
from cluster.placement import Placement
from cluster.printable import is_printable
from cluster.trust.credentials import Credentials
from cluster.uses import Uses
from cluster.wire import node_pb2
from cluster.wire import worker_pb2 as pb
from cluster.worker.role import Role
from mlx_moe.errors import InvalidRequestError, MoeClusterError

log = logging.getLogger(__name__)

ORPHAN_S = 60.0

ATTACH_S = 10.0
"""How long a worker that has not loaded yet waits for its owner to make the call again that broke."""

MAX_MODEL = 1024
"""Characters of a model's name, which may be a path."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """What a worker without an owner was told to load last, and by whom."""

    load: pb.LoadShard
    owner: str


@dataclass(eq=False, slots=True)
class _Hosted:
    """A worker. `events` are those of the call that owns it, up to None, or to an error that ends this call only.

    `said` are those of its last part; `is_connected`: it was told where the other workers are.
    """

    process: WorkerProcess
    load: pb.LoadShard
    owner: str
    life: asyncio.Task[None]
    events: asyncio.Queue[pb.WorkerEvent | MoeClusterError | None] | None = None
    has_loaded: bool = False
    is_connected: bool = False
    is_stopping: bool = False
    said: list[pb.WorkerEvent] = field(default_factory=list)
    telling: asyncio.Task[None] | None = None
    patience: asyncio.Task[None] | None = None

    def begin(self, load: pb.LoadShard) -> None:
        """Note that it is told to load a part."""
        self.load, self.is_connected, self.said = load, False, []

    def tell(self, event: pb.WorkerEvent) -> None:
        """Pass an event on to the owner."""
        self.has_loaded |= event.HasField("loaded")
        if event.WhichOneof("event") not in ("progress", "stats"):
            self.said.append(event)
        if self.events is not None:
            self.events.put_nowait(event)


class WorkerHost:
    """Runs at most one worker. `orphaned` is set while it is an orphan; `fetching` is held while a model is pulled."""

    def __init__(
        self, state: NodeState, serving: Serving, credentials: Credentials, home: Home, listening: Listening
    ) -> None:
        self.orphaned = asyncio.Event()
        self.fetching = asyncio.Lock()
        self._state = state
        self._serving = serving
        self._credentials = credentials
        self._home = home
        self._listening = listening
        self._hosted: _Hosted | None = None
        self._held_at = 0.0
        self._one_change_at_a_time = asyncio.Lock()

    async def run(self, commands: AsyncIterator[pb.WorkerCommand], caller: str) -> AsyncGenerator[pb.WorkerEvent, None]:
        """Run a worker, or go on with one that has no owner or lost its call; obey commands, and yield its events.

        Raises:
            MoeClusterError: the caller does not own the epoch, another worker runs here, or there is no copy.
        """
        if self.fetching.locked():
            name = self._state.name(self._state.own.node_id)
            raise ClusterError(
                f"node {name} is pulling a model: wait until it is there, or end that with moe-cluster unload"
            )
        first = await anext(commands, pb.WorkerCommand())
        self._require_owner(max(first.load.epoch, first.attach.epoch), caller)
        async with self._one_change_at_a_time:
            if first.HasField("attach"):
                hosted = self._attached(first.attach.epoch, caller)
            else:
                hosted = await self._hosted_for(first.load, caller)
            events = hosted.events = asyncio.Queue()
            for said in hosted.said:
                events.put_nowait(said)
        telling = hosted.telling = asyncio.create_task(self._tell(hosted, commands, caller))
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, MoeClusterError):
                    raise event
                yield event
            if telling.done():
                telling.result()  # raises the reason if the worker could not be told
        finally:
            telling.cancel()
            if hosted.events is events:  # no later owner has it
                hosted.events = None
                self._let_go(hosted)

    async def end(self, reason: str) -> None:
        """Stop the worker, whose clients get the reason; return when it has ended."""
        if (hosted := self._hosted) is not None:
            hosted.is_stopping = True
            await hosted.process.tell(pb.WorkerCommand(stop=pb.StopWorker(reason=reason)))
            await asyncio.wait((hosted.life,))

    @property
    def orphan(self) -> Orphan | None:
        """The worker, if nobody owns it now."""
        hosted = self._hosted
        is_orphan = hosted is not None and hosted.events is None and hosted.has_loaded and not hosted.is_stopping
        return Orphan(hosted.load, hosted.owner) if hosted is not None and is_orphan else None

    def _attached(self, epoch: int, caller: str) -> _Hosted:
        """Return the worker of an owner whose call broke. It may not have been told about this epoch yet.

        Raises:
            NodeLostError: it has ended, or has another owner.
        """
        hosted = self._hosted
        if hosted is None or hosted.is_stopping or hosted.owner != caller or hosted.load.epoch > epoch:
            own = self._state.own.node_id
            raise NodeLostError(f"node {self._state.name(own)} has ended its worker", node_id=own)
        if hosted.telling is not None:
            hosted.telling.cancel()
        if hosted.patience is not None:
            hosted.patience.cancel()
        if hosted.events is not None:
            hosted.events.put_nowait(None)
        log.info("event=attached epoch=%d owner=%s", epoch, self._state.name(caller))
        self.orphaned.clear()
        return hosted

    async def _hosted_for(self, load: pb.LoadShard, caller: str) -> _Hosted:
        """Return the worker that was told to load a part: a new one, or one that holds a part of the same model."""
        hosted, epoch = self._hosted, self._state.holding.epoch
        if hosted is not None and hosted.is_stopping:
            await asyncio.wait((hosted.life,))
            hosted, epoch = None, 0
        if hosted is not None and load.epoch <= epoch:
            name = self._state.name(self._state.own.node_id)
            raise ClusterError(f"node {name} holds {self._state.holding.model} already: unload that first")
        if hosted is not None and _content(hosted.load) != _content(load):
            await self.end(f"{load.model} takes its place")
            hosted = None
        if hosted is None:
            return await self._start(load, caller)
        await self._hold(load, caller)
        if hosted.patience is not None:
            hosted.patience.cancel()
        if hosted.events is not None:
            hosted.events.put_nowait(MovedError(f"node {self._state.name(caller)} has taken over {load.model}"))
        log.info("event=adopted epoch=%d owner=%s", load.epoch, self._state.name(caller))
        hosted.owner = caller
        hosted.begin(load)
        self.orphaned.clear()
        await hosted.process.tell(pb.WorkerCommand(reconfigure=load))
        return hosted

    async def _start(self, load: pb.LoadShard, caller: str) -> _Hosted:
        await self._hold(load, caller)
        started: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
        life = asyncio.create_task(self._live(started))
        try:
            await asyncio.wait((started, life), return_when="FIRST_COMPLETED")
            if life.done():
                life.result()
            hosted = self._hosted = _Hosted(await started, load, caller, life)
        except BaseException:
            life.cancel()
            raise
        await hosted.process.tell(pb.WorkerCommand(load=load))
        return hosted

    async def _live(self, started: asyncio.Future[WorkerProcess]) -> None:
        """Run the process, and pass its events on, until it ends."""
        name = self._state.name(self._state.own.node_id)
        try:
            async with worker_process(
                self._home.path,
                self._state.own.node_id,
                name,
                self._listening.now().hosts,
                insecure=self._credentials.insecure,
                log_path=self._home.logs / log_files.WORKER,
            ) as process:
                started.set_result(process)
                async for event in process.events():
                    self._note(event)
                    if self._hosted is not None:
                        self._hosted.tell(event)
                if self._hosted is not None:
                    self._hosted.is_stopping = True
        finally:
            hosted, self._hosted = self._hosted, None
            self.orphaned.clear()
            self._serving.acquiring.forget(taken_before=self._held_at)
            self._state.holding = node_pb2.Holding()
            if hosted is not None and hosted.patience is not None:
                hosted.patience.cancel()
            if hosted is not None and hosted.events is not None:
                hosted.events.put_nowait(None)

    def _let_go(self, hosted: _Hosted) -> None:
        """Keep a worker for a while, as an orphan if it is of use to others; end one that was told to stop."""
        if hosted.is_stopping:
            hosted.life.cancel()
            return
        log.warning("event=orphaned epoch=%d model=%s", hosted.load.epoch, hosted.load.model)
        hosted.patience = asyncio.create_task(self._wait_for_owner(ORPHAN_S if hosted.has_loaded else ATTACH_S))
        if hosted.has_loaded:
            self.orphaned.set()

    async def _wait_for_owner(self, patience_s: float) -> None:
        await asyncio.sleep(patience_s)
        if self._hosted is not None:
            self._hosted.patience = None
            await self.end("the node that coordinated the model was lost, and no other one has taken over")

    async def _tell(self, hosted: _Hosted, commands: AsyncIterator[pb.WorkerCommand], caller: str) -> None:
        async for command in commands:
            if caller in self._state.membership.removed:
                return  # it was removed since: the worker is for who takes over
            if self._was_told(hosted, command):
                continue
            try:
                others = command.connect.workers
                targets = await asyncio.gather(*(self._state.meet(other.node_id, other.port) for other in others))
                for other, target in zip(others, targets, strict=True):
                    other.target = target
                if command.HasField("reconfigure"):
                    self._require_owner(command.reconfigure.epoch, caller)
                    await self._hold(command.reconfigure, caller)
                    hosted.begin(command.reconfigure)
            except MoeClusterError as error:
                hosted.is_stopping = True
                await hosted.process.tell(pb.WorkerCommand(stop=pb.StopWorker(reason=str(error))))
                raise
            hosted.is_connected |= command.HasField("connect")
            hosted.is_stopping |= command.HasField("stop")
            await hosted.process.tell(command)
            if command.stop.now:
                hosted.life.cancel()

    @staticmethod
    def _was_told(hosted: _Hosted, command: pb.WorkerCommand) -> bool:
        """Whether a command had arrived before the owner's former call broke."""
        is_same_part = command.HasField("reconfigure") and command.reconfigure.epoch == hosted.load.epoch
        return is_same_part or (command.HasField("connect") and hosted.is_connected)

    async def _hold(self, load: pb.LoadShard, caller: str) -> None:
        """Record what the worker will hold, and add the directory of this node's copy and the targets of its peers.

        Raises:
            MoeClusterError: there is no copy, or a peer is unknown.
        """
        former, self._held_at = self._state.holding, time.monotonic()
        load.memory_bytes = self._state.own.offered_bytes
        role = Role.read(load.placement, self._state.own.node_id)
        if load.epoch <= former.epoch:
            raise InvalidRequestError(f"epoch {load.epoch} of node {caller} does not follow epoch {former.epoch}")
        if not is_printable(load.model, MAX_MODEL):
            raise InvalidRequestError("a model whose name cannot be printed")
        copy = self._serving.copies.known(role.placement.content_hash)
        load.directory, load.stamp = str(copy.directory), copy.stamp
        Uses(self._home.uses).note(copy.directory)
        load.is_outline = copy.is_outline
        if (conversion := own_part.conversion_of(self._home, role.placement, copy, keep=load.keep)) is not None:
            load.conversion = str(conversion)
            Uses(self._home.uses).note(conversion)
        load.keep |= copy.directory.is_relative_to(self._home.models)  # it was pulled, or is from the hub
        self._state.holding = node_pb2.Holding(
            model=load.model,
            epoch=load.epoch,
            stage=role.index,
            first_layer=role.shard_spec().layers.start,
            end_layer=role.shard_spec().layers.stop,
            spare_first_layer=role.spare_layers.start,
            spare_end_layer=role.spare_layers.stop,
            leads=role.leads,
            coordinates=role.coordinates,
        )
        try:
            targets = await asyncio.gather(*(self._state.meet(peer.node_id) for peer in load.peers))
        except BaseException:
            self._state.holding = former
            raise
        for peer, target in zip(load.peers, targets, strict=True):
            peer.target = target

    def _note(self, event: pb.WorkerEvent) -> None:
        if event.HasField("progress"):
            self._state.holding.progress.CopyFrom(event.progress)
        elif event.HasField("loaded"):
            self._state.holding.ClearField("progress")
            self._state.holding.weights_bytes = event.loaded.weights_bytes
            self._state.holding.spare_bytes = event.loaded.spare_bytes
            self._state.holding.experts = event.loaded.experts
        elif event.HasField("stats"):
            self._state.holding.stats.CopyFrom(event.stats)

    def _require_owner(self, epoch: int, caller: str) -> None:
        if not self._credentials.insecure and not self._serving.voting.owns(caller, epoch):
            own, name = self._state.name(self._state.own.node_id), self._state.name(caller)
            raise TrustError(f"node {name} may not run a worker on node {own}, which has not granted it epoch {epoch}")


def _content(load: pb.LoadShard) -> str:
    with suppress(MoeClusterError):
        return Placement.parse(load.placement).content_hash
    return ""

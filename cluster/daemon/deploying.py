"""Deploying: runs a deployment; each node's worker lives as long as this daemon holds a call to the node.

It runs in the daemon of the coordinator's node, without which there is no model. The worker of this node needs no
connection. A call to another one that breaks while that node answers is made again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any

import grpc

from cluster.daemon import deployment_events as events
from cluster.daemon.channels import Channels
from cluster.daemon.deployment import Deployment, Phase
from cluster.daemon.greeter import ECHO_METHOD
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError, NodeLostError, OutvotedError
from cluster.membership.membership import Gone, State
from cluster.placement import Placement
from cluster.printable import MAX_ERROR, MAX_REASON, printable
from cluster.rpc_errors import error_named, error_of, is_reported
from cluster.wire import node_pb2, node_pb2_grpc
from cluster.wire import worker_pb2 as pb
from mlx_moe.errors import MoeClusterError

MOST_EVENTS = 1024
"""Events of workers that wait."""

log = logging.getLogger(__name__)

LOOK_S = 0.5
OVERLOAD_S = 10.0
"""How often to look whether membership counts a node as lost, and for how long it may while its connections hold."""

ANSWER_S = 1.0
PAUSE_S = 0.2
"""How long a node whose call has broken may take to answer, and a pause before it is asked again."""

OUTVOTED_S = 8.0
"""How long a placement in place of one that has lost nodes may find no agreement, before the model is given up."""

CANCEL_S = 1.0
"""How long a node may take to end a worker that does not obey, before the call to it is cancelled."""


BREAKS = 5
LASTS_S = 1.0
"""So many calls in a row that broke within LASTS_S, and the worker is lost although its node answers."""

Commands = AsyncIterator[pb.WorkerCommand]
RunWorker = Callable[[Commands], AsyncGenerator[pb.WorkerEvent, None]]
"""Runs this node's worker: see `WorkerHost`."""


class _Worker:
    """The commands to a worker. `told` are those about its last part, which are told again on the next call."""

    def __init__(self) -> None:
        self.hearing: asyncio.Task[None] | None = None
        self.is_cancelled = False
        self._told: list[pb.WorkerCommand | None] = []
        self._commands: asyncio.Queue[pb.WorkerCommand | None] = asyncio.Queue()

    def tell(self, command: pb.WorkerCommand | None) -> None:
        """Send a command; None: there are no more."""
        if command is not None and (command.HasField("load") or command.HasField("reconfigure")):
            part = command.load if command.HasField("load") else command.reconfigure
            self._told = [pb.WorkerCommand(reconfigure=part)]
        else:
            self._told.append(command)
        self._commands.put_nowait(command)

    def attach(self, epoch: int) -> None:
        """Begin anew, for a call in place of one that broke."""
        self._commands = asyncio.Queue()
        for command in (pb.WorkerCommand(attach=pb.AttachWorker(epoch=epoch)), *self._told):
            self._commands.put_nowait(command)

    async def commands(self) -> Commands:
        """Yield the commands of one call."""
        commands = self._commands
        while (command := await commands.get()) is not None:
            yield command

    def cancel(self) -> None:
        """End the call."""
        self.is_cancelled = True
        if self.hearing is not None:
            self.hearing.cancel()


Replace = Callable[[Placement, events.Repair], Awaitable[node_pb2.DeployRequest]]
"""Returns what to deploy in place of a placement that has lost nodes or links. Raises MoeClusterError."""


class Deploying:
    """A deployment and its calls to workers. `deploy` has the model's further settings, such as its draft.

    With a `cause` it goes on with what another node deployed, which was lost, as are the nodes `lost`.
    """

    def __init__(
        self,
        state: NodeState,
        channels: Channels,
        placement: Placement,
        deploy: node_pb2.DeployRequest,
        run_own: RunWorker,
        replace: Replace,
        cause: MoeClusterError | None = None,
        lost: frozenset[str] = frozenset(),
    ) -> None:
        self._state = state
        self._channels = channels
        self._deploy = deploy
        self._run_own = run_own
        self._replace = replace
        self._repairing: asyncio.Task[None] | None = None
        self._events: asyncio.Queue[events.Event] = asyncio.Queue()
        self._workers: dict[str, _Worker] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._become(*Deployment.begin(placement, deploy.epoch, time.monotonic(), cause, lost))

    @property
    def placement(self) -> Placement:
        """The placement of the model."""
        return self._deployment.placement

    @property
    def error(self) -> MoeClusterError | None:
        """The error that ended the deployment, if any."""
        return self._deployment.error

    def may_become(self, placement: Placement) -> bool:
        """Whether it can be reconfigured to a placement: it has not ended, and the content is the same."""
        is_same = placement.content_hash == self.placement.content_hash != ""
        return is_same and self._deployment.phase in (Phase.LOADING, Phase.READY)

    @property
    def is_ready(self) -> bool:
        """Whether it serves answers."""
        return self._deployment.phase is Phase.READY

    @property
    def was_ready(self) -> bool:
        """Whether it has served answers at any time."""
        return self._deployment.was_ready

    @property
    def is_lost(self) -> bool:
        """Whether it ended because nodes were lost."""
        return self._deployment.phase is Phase.ENDED and isinstance(self._deployment.error, NodeLostError)

    @property
    def asked(self) -> node_pb2.LoadRequest:
        """What a person asked for; the placement may be a later one."""
        return self._deploy.asked

    @property
    def keeps(self) -> bool:
        """Whether nodes keep on disk what they fetch."""
        return self._deploy.keep

    @property
    def serving(self) -> node_pb2.Serving:
        """Its state, as told to all nodes."""
        now, placed = self._deployment, self._deployment.placement
        first = now.workers.get(placed.coordinator)
        serving = node_pb2.Serving(
            model=placed.model,
            epoch=now.epoch,
            state=node_pb2.Serving.LOADING,
            coordinator=placed.coordinator,
            port=first.port or 0 if first is not None else 0,
            node_ids=placed.node_ids,
            draft=self._deploy.draft,
            context_tokens=self._deploy.context_tokens,
            chunk_length=placed.chunks.fixed_length,
            standby=self._deploy.asked.standby,
            latency_s=self._deploy.asked.latency_s,
        )
        if (quantized := placed.recipe.experts) is not None:
            serving.bits, serving.mode = quantized.bits, quantized.mode
        if now.error is not None:
            serving.state, serving.failure = node_pb2.Serving.FAILED, str(now.error)
        elif now.ready_at is not None:
            serving.state, serving.load_s = node_pb2.Serving.READY, now.ready_at - now.started_at
        return serving

    @property
    def load_status(self) -> node_pb2.LoadStatus:
        """The progress of loading."""
        workers = (self._deployment.workers.get(node_id) for node_id in self.placement.node_ids)
        progress = [worker.progress for worker in workers if worker is not None and worker.progress is not None]
        return node_pb2.LoadStatus(
            serving=self.serving,
            nodes=[
                node_pb2.NodeProgress(
                    name=self._state.name(p.node_id),
                    done_bytes=p.done_bytes,
                    total_bytes=p.total_bytes,
                    source=p.source,
                )
                for p in progress
            ],
            placement=json.dumps(self.placement.to_json()),
        )

    async def run(self) -> None:
        """Load and serve until it is ended. Raises the MoeClusterError that ended it, if any."""
        try:
            while self._deployment.phase is not Phase.ENDED:
                self._apply(await self._next_event())
        finally:
            for task in self._tasks:
                task.cancel()
        if self.error is not None:
            log.error("event=deployment_failed model=%s error=%s", self.placement.model, self.error)
            raise self.error

    def end(self, reason: str) -> None:
        """Stop all workers; interrupted answers get the reason. `run` returns when all have ended."""
        self._apply(events.EndAsked(reason))

    def reconfigure(self, placement: Placement, deploy: node_pb2.DeployRequest) -> None:
        """Change to another placement: workers keep what they hold of their new parts. Can be followed like a load."""
        self._deploy = deploy
        self._apply(events.ReconfigureAsked(placement, deploy.epoch))

    async def _next_event(self) -> events.Event:
        wakes_at = self._deployment.wakes_at
        try:
            async with asyncio.timeout(None if wakes_at is None else max(0.0, wakes_at - time.monotonic())):
                return await self._events.get()
        except TimeoutError:
            return events.Tick()

    def _apply(self, event: events.Event) -> None:
        was_ready = self._deployment.phase is Phase.READY
        self._become(*self._deployment.apply(event, time.monotonic()))
        if self._deployment.phase is Phase.READY and not was_ready:
            log.info("event=ready model=%s seconds=%.2f", self.placement.model, self.serving.load_s)

    def _become(self, deployment: Deployment, commands: tuple[events.Command, ...]) -> None:
        self._deployment = deployment
        self._state.own_serving = self.serving
        for command in commands:
            self._do(command)

    def _do(self, command: events.Command) -> None:
        match command:
            case events.Start(node_id):
                self._start(node_id)
            case events.Reconfigure(node_id):
                self._tell(node_id, pb.WorkerCommand(reconfigure=self._part()))
            case events.Connect(node_id, ports):
                workers = [
                    pb.WorkerAddress(node_id=i, port=port, name=self._state.name(i)) for i, port in ports.items()
                ]
                self._tell(node_id, pb.WorkerCommand(connect=pb.ConnectWorkers(workers=workers)))
            case events.Stop(node_id, reason):
                is_unloaded = self._deployment.phase is Phase.ENDING and self.error is None
                self._tell(node_id, pb.WorkerCommand(stop=pb.StopWorker(reason=reason, is_unloaded=is_unloaded)))
                self._tell(node_id, None)
            case events.Cancel(node_id):
                self._tell(node_id, pb.WorkerCommand(stop=pb.StopWorker(reason="it did not obey", now=True)))
                self._spawn(self._cancel(self._workers[node_id]))
            case events.Repair():
                if self._repairing is not None:
                    self._repairing.cancel()  # more is lost than it knows
                self._repairing = self._spawn(self._repair(command))

    def _tell(self, node_id: str, command: pb.WorkerCommand | None) -> None:
        self._workers[node_id].tell(command)

    def _start(self, node_id: str) -> None:
        worker = self._workers[node_id] = _Worker()
        worker.tell(pb.WorkerCommand(load=self._part()))
        worker.hearing = self._spawn(self._hear(node_id, worker))

    def _run(self, node_id: str, commands: Commands) -> AsyncGenerator[pb.WorkerEvent, None]:
        if node_id == self._state.own.node_id:
            return self._run_own(commands)
        stub = node_pb2_grpc.NodeStub(self._channels.get(node_id, self._state.target(node_id)))
        return _called(stub.RunWorker(), commands)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _repair(self, repair: events.Repair) -> None:
        """Find a placement without what was lost."""
        log.warning("event=lost model=%s cause=%s", self.placement.model, self._deployment.cause)
        began_s = time.monotonic()
        await asyncio.sleep(repair.delay_s)
        try:
            deploy = await self._replaced(repair)
        except MoeClusterError as error:
            self._events.put_nowait(events.RepairFailed(error))
            return
        log.info("event=placed_again epoch=%d seconds=%.2f", deploy.epoch, time.monotonic() - began_s)
        self._deploy = deploy
        placement = Placement.parse(deploy.placement)
        self._events.put_nowait(events.ReconfigureAsked(placement, deploy.epoch))

    async def _replaced(self, repair: events.Repair) -> node_pb2.DeployRequest:
        """Return a placement without what was lost. Raises MoeClusterError.

        For OUTVOTED_S it is asked for again if others did not agree, or a node that is here did not answer.
        """
        ends_at = time.monotonic() + OUTVOTED_S
        while True:
            present = set(self._state.present)
            try:
                return await self._replace(self.placement, repair)
            except MoeClusterError as error:
                if set(self._state.present) != present:  # it counted on a node that was ending
                    continue
                if not isinstance(error, OutvotedError | NodeLostError) or time.monotonic() > ends_at:
                    raise
            await asyncio.sleep(OUTVOTED_S / 20)

    async def _cancel(self, worker: _Worker) -> None:
        await asyncio.sleep(CANCEL_S)
        worker.cancel()

    async def _hear(self, node_id: str, worker: _Worker) -> None:
        """Queue the events that a worker reports, until it has ended or is lost."""
        name = self._state.name(node_id)
        ended = NodeLostError(f"node {name} ended its worker", node_id=node_id)
        error: MoeClusterError = ended
        is_gone, breaks = False, 0
        looking = self._spawn(self._look(node_id, worker))
        try:
            while True:
                began_s = time.monotonic()
                try:
                    await self._listen(node_id, worker, name)
                    error = ended
                    break
                except grpc.RpcError as exc:
                    error = error_of(exc, f"node {name}", node_id)
                    breaks = breaks + 1 if time.monotonic() - began_s < LASTS_S else 1
                    if is_reported(exc) or breaks == BREAKS:
                        break
                    if is_gone := not await self._answers(node_id):
                        break
                log.warning("event=call_broke node=%s cause=%r", name, str(error))
                worker.attach(self._deployment.epoch)
        except (MoeClusterError, OSError) as exc:  # of this node
            error = exc if isinstance(exc, MoeClusterError) else ClusterError(f"node {name}: {exc}")
        except asyncio.CancelledError:
            if not worker.is_cancelled:
                raise
            if self._is_lost(node_id):
                error = NodeLostError(f"node {name} is silent: it does not answer any more", node_id=node_id)
                is_gone = True
        finally:
            looking.cancel()
        if is_gone:
            self._state.apply(Gone(node_id))
        self._events.put_nowait(events.CallEnded(node_id, error, is_gone))

    async def _listen(self, node_id: str, worker: _Worker, name: str) -> None:
        """Queue the events of one call. Raises grpc.RpcError; for this node's worker, MoeClusterError."""
        async with aclosing(self._run(node_id, worker.commands())) as reported:
            async for event in reported:
                if (told := _told(event, node_id, name)) is not None:
                    self._events.put_nowait(told)
                while self._events.qsize() > MOST_EVENTS:  # a node that reports without end is held back
                    await asyncio.sleep(0)

    async def _look(self, node_id: str, worker: _Worker) -> None:
        """Cancel the call of a node that has been lost for a while, although no connection to it has broken.

        Not at once: a node that is stopped or cut off breaks its connections; one that is only overloaded does not.
        """
        looks = 0
        while looks * LOOK_S < OVERLOAD_S:
            await asyncio.sleep(LOOK_S)
            looks = looks + 1 if self._is_lost(node_id) else 0
        worker.cancel()

    def _is_lost(self, node_id: str) -> bool:
        member = self._state.membership.members.get(node_id)
        return member is not None and member.state is State.LOST

    async def _answers(self, node_id: str) -> bool:
        """Whether a node whose call has broken still answers: only the connection broke. A suspect is not asked."""
        member = self._state.membership.members.get(node_id)
        if member is not None and member.shown_state(time.monotonic()) is State.SUSPECT:
            return False
        for _ in range(2):
            channel = self._channels.get(node_id, self._state.target(node_id))
            echo: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(ECHO_METHOD)
            try:
                await echo(b"", timeout=ANSWER_S)
            except grpc.RpcError as exc:
                if is_reported(exc):
                    return True
                await asyncio.sleep(PAUSE_S)  # the first one may hear of the broken connection, too
            else:
                return True
        return False

    def _part(self) -> pb.LoadShard:
        return pb.LoadShard(
            model=self.placement.model,
            epoch=self._deployment.epoch,
            placement=json.dumps(self.placement.to_json()),
            draft=self._deploy.draft,
            peers=[pb.WeightPeer(node_id=i, name=self._state.name(i)) for i in self._deploy.holders],
            keep=self._deploy.keep,
            cause=str(self._deployment.cause or f"{self.placement.model} was placed on the nodes in another way"),
            asked=self._deploy.asked.SerializeToString(),
        )


async def _called(
    call: grpc.aio.StreamStreamCall[pb.WorkerCommand, pb.WorkerEvent], commands: Commands
) -> AsyncGenerator[pb.WorkerEvent, None]:
    """Send commands on a call, and yield what it answers; end the call at the end."""

    async def write() -> None:
        with suppress(grpc.RpcError, asyncio.InvalidStateError):  # reading raises the reason
            async for command in commands:
                await call.write(command)
            await call.done_writing()

    writing = asyncio.create_task(write())
    try:
        async for event in call:
            yield event
    finally:
        writing.cancel()
        call.cancel()


def _told(event: pb.WorkerEvent, node_id: str, name: str) -> events.Event | None:
    """Return the deployment's event for a worker's event; None if there is none."""
    match event.WhichOneof("event"):
        case "progress":
            source = printable(event.progress.source, MAX_REASON)
            return events.Progressed(node_id, event.progress.done_bytes, event.progress.total_bytes, source)
        case "loaded":
            return events.Loaded(node_id, event.loaded.epoch, event.loaded.port)
        case "connected":
            return events.Connected(node_id, event.connected.epoch)
        case "disconnected":
            cause = event.disconnected.cause if event.disconnected.HasField("cause") else None
            error = None if cause is None else _error(cause, node_id, name)
            return events.Disconnected(node_id, event.disconnected.epoch, error)
        case "failure":
            return events.Failed(node_id, _error(event.failure, node_id, name))
    return None


def _error(failure: pb.WorkerFailure, node_id: str, name: str) -> MoeClusterError:
    message = printable(failure.message, MAX_ERROR)
    return error_named(failure.code, f"node {name}: {message}", node_id=failure.node_id or node_id)

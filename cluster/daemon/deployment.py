"""Deployment: one model on the nodes of a placement, from the start of the first worker to the end of the last.

A fold: takes events of workers, returns commands to them. Knows nothing about gRPC: see `deploying`. Once it was ready
it survives the loss of any worker: it asks for a repair, a placement without what was lost, and becomes that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cluster.daemon.deployment_events import (
    CallEnded,
    Cancel,
    Command,
    Connect,
    Connected,
    Disconnected,
    EndAsked,
    Event,
    Failed,
    Loaded,
    Progressed,
    Reconfigure,
    ReconfigureAsked,
    Repair,
    RepairFailed,
    Start,
    Stop,
    Tick,
)
from cluster.errors import NodeLostError
from cluster.placement import Placement
from mlx_moe.errors import MoeClusterError

FAREWELL_S = 8.0
"""How long a worker may take to tell its clients the reason and to end, before its call is cancelled."""

ANSWER_S = 15.0
"""How long a worker may take to begin with another placement, before its call is cancelled: it is stuck."""

ROOT_CAUSE_S = 0.5
"""How long a lost link waits for news of the worker at its other end, which is a better reason."""

TRIES = 3
TRIES_S = 600.0
"""A node whose worker, or the link to it, was lost more often within TRIES_S gets no part of the next placement.

Before the model was ready for the first time, the load ends when workers of one node have died TRIES times."""

CURE = "free memory there, give it less of the model with `moe-cluster up --memory 16GB`, or quantize with `--bits 4`"


class Phase(StrEnum):
    """The state of a deployment."""

    LOADING = "loading"
    READY = "ready"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class NodeWorker:
    """The worker of one node. `epoch` is the last one that it was told; the other fields belong to this epoch.

    After it was told to stop or to change, its call is cancelled at `cancel_at` if it does not.
    """

    epoch: int
    progress: Progressed | None = None
    port: int | None = None
    is_connected: bool = False
    is_stopped: bool = False
    failure: MoeClusterError | None = None
    cancel_at: float | None = None


@dataclass(frozen=True, slots=True)
class Deployment:
    """A model on nodes; `workers` by node id. Immutable. Times are monotonic seconds.

    `error` is the error that ended it; None while it lasts, or if it was unloaded. `suspicion` is the error of a lost
    link until `suspicion_at`, in case a better reason arrives before. `leaving` is the former coordinator until its
    clients have been told about the new placement; no other worker closes a link before that. `cause` is why it was
    not ready any more, until it is again; `is_repaired` until there is a placement without the `lost` nodes and links.
    `losses` has the times of recent losses by node.
    """

    placement: Placement
    epoch: int
    started_at: float
    phase: Phase = Phase.LOADING
    workers: Mapping[str, NodeWorker] = field(default_factory=dict)
    ready_at: float | None = None
    error: MoeClusterError | None = None
    suspicion: MoeClusterError | None = None
    suspicion_at: float | None = None
    leaving: str | None = None
    was_ready: bool = False
    cause: MoeClusterError | None = None
    is_repaired: bool = False
    lost: frozenset[str] = frozenset()
    lost_links: frozenset[tuple[str, str]] = frozenset()
    losses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def begin(
        cls,
        placement: Placement,
        epoch: int,
        now: float,
        cause: MoeClusterError | None = None,
        lost: frozenset[str] = frozenset(),
    ) -> tuple[Deployment, tuple[Command, ...]]:
        """Return a new deployment and the commands to execute for it.

        With a `cause` it goes on with what another node deployed, which was lost, as are the nodes `lost`.
        """
        begun = cls(placement, epoch, now, was_ready=cause is not None, cause=cause, lost=lost)
        return begun._tell(placement.node_ids, now)

    @property
    def wakes_at(self) -> float | None:
        """The time at which a Tick has an effect if no other event comes before; None if there is none."""
        times = [self.suspicion_at, *(worker.cancel_at for worker in self.workers.values())]
        return min((at for at in times if at is not None), default=None)

    def apply(self, event: Event, now: float) -> tuple[Deployment, tuple[Command, ...]]:
        """Return the deployment after an event and the commands to execute for it."""
        match event:
            case EndAsked(reason) if self._lasts:
                return self._end(reason, None, now)
            case ReconfigureAsked(placement, epoch) if self._lasts and epoch > self.epoch:
                return self._reconfigure(placement, epoch, now)
            case Tick():
                return self._tick(now)
            case CallEnded(node_id, error, is_gone) if node_id in self.workers:
                return self._call_ended(node_id, error, now, is_gone=is_gone)
            case RepairFailed(error) if self._lasts and self.is_repaired:
                both = NodeLostError(f"{self.cause}; {error}")
                return self._end(str(both), both, now)
            case Progressed(node_id) if node_id in self.workers:
                return self._with(node_id, progress=event)._heard(node_id), ()
            case Loaded(node_id, epoch, port) if self._counts(node_id, epoch):
                return self._with(node_id, port=port)._heard(node_id)._connect()
            case Connected(node_id, epoch) if self._counts(node_id, epoch):
                return self._with(node_id, is_connected=True)._settled(now), ()
            case Disconnected(node_id, epoch, error) if node_id in self.workers:
                return self._disconnected(node_id, epoch, error, now)
            case Failed(node_id, error) if node_id in self.workers and not self.workers[node_id].is_stopped:
                failed = self._with(node_id, failure=error)
                is_harmless = isinstance(error, NodeLostError) or self._only_spares(node_id)
                return (failed, ()) if is_harmless else failed._blame(error, now)
        return self, ()

    @property
    def _lasts(self) -> bool:
        return self.phase in (Phase.LOADING, Phase.READY)

    def _counts(self, node_id: str, epoch: int) -> bool:
        """Whether a worker's event about an epoch concerns the current epoch."""
        worker = self.workers.get(node_id)
        return self._lasts and epoch == self.epoch and worker is not None and not worker.is_stopped

    def _only_spares(self, node_id: str) -> bool:
        """Whether a node of the running placement computes nothing: its loss disturbs no answer."""
        return self.phase is Phase.READY and node_id not in self.placement.running_ids

    def _is_spared(self, node_id: str) -> bool:
        """Whether another node has a spare copy of what a node runs."""
        spare, stages = self.placement.standby, self.placement.stages
        return spare is not None and any(s.node_id == node_id and s.layers == spare.layers for s in stages)

    def _heard(self, node_id: str) -> Deployment:
        """Wait no longer for a worker to begin with a placement; one that was told to stop must still end in time."""
        return self if self.workers[node_id].is_stopped else self._with(node_id, cancel_at=None)

    def _with(self, node_id: str, **changes: object) -> Deployment:
        worker = replace(self.workers[node_id], **changes)  # type: ignore[arg-type]
        return replace(self, workers={**self.workers, node_id: worker})

    def _of_placement(self) -> list[NodeWorker]:
        """Return the workers of the placement that have been told about it."""
        found = (self.workers.get(node_id) for node_id in self.placement.node_ids)
        return [w for w in found if w is not None and w.epoch == self.epoch and not w.is_stopped]

    def _connect(self) -> tuple[Deployment, tuple[Command, ...]]:
        """Return the commands that connect all workers, once all have loaded."""
        ports = [worker.port for worker in self._of_placement() if worker.port is not None]
        if len(ports) < len(self.placement.node_ids):
            return self, ()
        by_node = dict(zip(self.placement.node_ids, ports, strict=True))
        return self, tuple(Connect(node_id, by_node) for node_id in by_node)

    def _settled(self, now: float) -> Deployment:
        connected = [worker for worker in self._of_placement() if worker.is_connected]
        if self.phase is not Phase.LOADING or len(connected) < len(self.placement.node_ids):
            return self
        serves = replace(self, phase=Phase.READY, ready_at=now, was_ready=True, cause=None)
        return replace(serves, lost=frozenset(), lost_links=frozenset())

    def _disconnected(
        self, node_id: str, epoch: int, error: MoeClusterError | None, now: float
    ) -> tuple[Deployment, tuple[Command, ...]]:
        if node_id == self.leaving:
            return replace(self._with(node_id, is_connected=False), leaving=None)._tell_all(now)
        if not self._counts(node_id, epoch) or error is None:
            return self, ()
        after = self._with(node_id, is_connected=False)
        if isinstance(error, NodeLostError) and error.node_id not in (None, node_id):
            after = replace(after, lost_links=self.lost_links | {(node_id, error.node_id)})
        return after._blame(error, now)

    def _call_ended(
        self, node_id: str, error: MoeClusterError, now: float, *, is_gone: bool
    ) -> tuple[Deployment, tuple[Command, ...]]:
        was_stopped, error = self.workers[node_id].is_stopped, self.workers[node_id].failure or error
        after = replace(self, workers={i: worker for i, worker in self.workers.items() if i != node_id})
        if not self._lasts:
            return (after if after.workers else replace(after, phase=Phase.ENDED)), ()
        if not was_stopped and self._only_spares(node_id):
            return replace(after, placement=replace(self.placement, standby=None)), ()
        if not was_stopped:
            has_died = self.workers[node_id].failure is not None
            return after._lose(node_id, error, now, is_gone=is_gone, has_died=has_died)
        if node_id == self.leaving:
            return replace(after, leaving=None)._tell_all(now)
        return after._tell([node_id], now) if self.leaving is None else (after, ())

    def _reconfigure(self, placement: Placement, epoch: int, now: float) -> tuple[Deployment, tuple[Command, ...]]:
        former = self.workers.get(self.placement.coordinator)
        is_serving = former is not None and former.is_connected
        after = replace(
            self,
            placement=placement,
            epoch=epoch,
            started_at=now,
            phase=Phase.LOADING,
            ready_at=None,
            suspicion=None,
            suspicion_at=None,
            is_repaired=False,
            leaving=self.placement.coordinator if is_serving else self.leaving,
        )
        return after._tell_all(now) if after.leaving is None else after._tell([after.leaving], now)

    def _lose(
        self, node_id: str, error: MoeClusterError, now: float, *, is_gone: bool, has_died: bool = False
    ) -> tuple[Deployment, tuple[Command, ...]]:
        """Ask for a repair after the loss of a worker or of the link to it.

        A node that is gone, was lost TRIES times, or whose dead worker has a spare copy elsewhere gets no part; another
        one may get its part again. A model that was never ready ends, unless it is a worker that has died for less than
        the TRIES-th time.
        """
        times = (*(at for at in self.losses.get(node_id, ()) if at > now - TRIES_S), now)
        if not self.was_ready and (is_gone or not has_died):
            return self._end(str(error), error, now)
        if not self.was_ready and len(times) == TRIES:
            said = f"{error}. It was worker {TRIES} of {TRIES} there that died before the model was ready: {CURE}"
            return self._end(said, NodeLostError(said, node_id=node_id), now)
        is_left_out = is_gone or len(times) > TRIES or (has_died and self._is_spared(node_id))
        lost = self.lost | {node_id} if is_left_out else self.lost
        after = replace(
            self,
            phase=Phase.LOADING,
            ready_at=None,
            suspicion=None,
            suspicion_at=None,
            cause=self.cause or error,
            is_repaired=True,
            lost=lost,
            losses={**self.losses, node_id: times},
        )
        return after, (Repair(lost, delay_s=float(len(times) - 1), lost_links=self.lost_links),)

    def _tell_all(self, now: float) -> tuple[Deployment, tuple[Command, ...]]:
        return self._tell([*self.placement.node_ids, *self.workers], now)

    def _tell(self, node_ids: Iterable[str], now: float) -> tuple[Deployment, tuple[Command, ...]]:
        """Start, reconfigure or stop the workers of nodes that have not been told about the placement.

        A worker that was told to stop ends first; if its node has a part again, a new worker starts after that.
        """
        workers, commands = dict(self.workers), list[Command]()
        for node_id in node_ids:
            worker, has_part = workers.get(node_id), node_id in self.placement.node_ids
            if worker is None and has_part:
                workers[node_id] = NodeWorker(self.epoch)
                commands.append(Start(node_id))
            elif worker is None or worker.is_stopped or worker.epoch == self.epoch:
                continue
            elif has_part:
                workers[node_id] = NodeWorker(self.epoch, failure=worker.failure, cancel_at=now + ANSWER_S)
                commands.append(Reconfigure(node_id))
            else:
                workers[node_id] = _stopped(worker, now)
                commands.append(Stop(node_id, f"{self.placement.model} is placed on other nodes: ask again"))
        return replace(self, workers=workers), tuple(commands)

    def _blame(self, error: MoeClusterError, now: float) -> tuple[Deployment, tuple[Command, ...]]:
        """End because of an error; for a lost link wait ROOT_CAUSE_S for a better reason."""
        if not self._lasts or (self.is_repaired and isinstance(error, NodeLostError)):
            return self, ()  # links to what was lost break one after the other
        if not isinstance(error, NodeLostError):
            return self._end(str(error), error, now)
        if self.suspicion is not None:
            return self, ()
        return replace(self, suspicion=error, suspicion_at=now + ROOT_CAUSE_S), ()

    def _tick(self, now: float) -> tuple[Deployment, tuple[Command, ...]]:
        if self.suspicion is not None and self.suspicion_at is not None and now >= self.suspicion_at:
            return self._lose(self.suspicion.node_id or "", self.suspicion, now, is_gone=False)
        late = [i for i, worker in self.workers.items() if worker.cancel_at is not None and now >= worker.cancel_at]
        cancelled = {i: replace(self.workers[i], cancel_at=None) for i in late}
        return replace(self, workers={**self.workers, **cancelled}), tuple(Cancel(i) for i in late)

    def _end(self, reason: str, error: MoeClusterError | None, now: float) -> tuple[Deployment, tuple[Command, ...]]:
        told = [i for i, worker in self.workers.items() if not worker.is_stopped]
        workers = {**self.workers, **{i: _stopped(self.workers[i], now) for i in told}}
        phase = Phase.ENDING if workers else Phase.ENDED
        after = replace(self, phase=phase, workers=workers, error=error, suspicion=None, suspicion_at=None)
        return after, tuple(Stop(i, reason) for i in told)


def _stopped(worker: NodeWorker, now: float) -> NodeWorker:
    return replace(worker, is_stopped=True, cancel_at=now + FAREWELL_S)

"""Deployment events: what a deployment is told of its workers, and the commands with which it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.placement import Placement
from mlx_moe.errors import MoeClusterError


@dataclass(frozen=True, slots=True)
class Progressed:
    """A worker has read `done_bytes` of the `total_bytes` that it has to read, from `source` ("": its own disk)."""

    node_id: str
    done_bytes: int
    total_bytes: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A worker has loaded its part of an epoch's placement and opened a port."""

    node_id: str
    epoch: int
    port: int


@dataclass(frozen=True, slots=True)
class Connected:
    """A worker has opened its links to the other workers of an epoch."""

    node_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """A worker has closed the links of an epoch: because of `error`, or because it was told to (None)."""

    node_id: str
    epoch: int
    error: MoeClusterError | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker reports the error that ends it."""

    node_id: str
    error: MoeClusterError


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A worker's call has ended, and the worker with it; `error` says why, if it was not told to stop.

    With `is_gone` its whole node does not answer any more.
    """

    node_id: str
    error: MoeClusterError
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class EndAsked:
    """The model is to be unloaded."""

    reason: str


@dataclass(frozen=True, slots=True)
class ReconfigureAsked:
    """The model gets another placement, with a higher epoch."""

    placement: Placement
    epoch: int


@dataclass(frozen=True, slots=True)
class RepairFailed:
    """There is no placement without the lost nodes."""

    error: MoeClusterError


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    Progressed
    | Loaded
    | Connected
    | Disconnected
    | Failed
    | CallEnded
    | EndAsked
    | ReconfigureAsked
    | RepairFailed
    | Tick
)


@dataclass(frozen=True, slots=True)
class Start:
    """Start a worker on a node and tell it to load its part."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """Tell a running worker to load its part of the new placement."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Connect:
    """Tell a worker the ports of all workers, by node id."""

    node_id: str
    ports: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Stop:
    """Tell a worker to end."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel the call of a worker that does not end."""

    node_id: str


@dataclass(frozen=True, slots=True)
class Repair:
    """Find a placement without the lost nodes and links, after a delay; answer with ReconfigureAsked or RepairFailed.

    `lost_links` are the ids at the ends of links that could not be opened again.
    """

    lost: frozenset[str]
    delay_s: float
    lost_links: frozenset[tuple[str, str]] = frozenset()


Command = Start | Reconfigure | Connect | Stop | Cancel | Repair

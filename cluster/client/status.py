"""Cluster status: a node's view of its cluster, as values. Knows nothing about gRPC or protobuf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cluster.membership.membership import LinkSpeed, State
from cluster.membership.node_info import NodeInfo
from cluster.placement import Links, NodeCapacity, Placement
from cluster.placement.nodes import capacity, links_from

NodeState = State


class ServingState(StrEnum):
    """The state of the cluster's model."""

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """Counts of a worker since it started. Only the coordinator's worker has drafts, requests and a budget.

    Attributes:
        compute_s: of frames; the coordinator's: of turns, which contain its stage's frames.
        held_s: of frames in other stages than the first, from their arrival to their end.
        sent_bytes: of frames to the next stage; `expert_bytes`: to and from nodes that own experts of the stage.
        idle_s: all answers waited for frames.
        away_s: of returned frames, from their leaving the first stage.
        waited_s: answers waited for `recoveries`, after which `replayed_positions` were computed again.
        disk_bytes: of weights that were read, as `peer_bytes` and `hub_bytes`.
        decode_batches: number of decode steps by their number of answers.
        expert_load: by layer, how often each expert was chosen, as a multiple of their mean.

    `used_memory_bytes` are those of the worker and its children, as the system counts them; `memory` is "short" where
    new requests are refused because of it, "out" where answers give way, else "".
    """

    frames: int = 0
    positions: int = 0
    kv_bytes: int = 0
    kv_positions: int = 0
    peak_memory_bytes: int = 0
    active_requests: int = 0
    drafts_compared: int = 0
    drafts_accepted: int = 0
    compute_s: float = 0.0
    held_s: float = 0.0
    sent_bytes: int = 0
    expert_bytes: int = 0
    idle_s: float = 0.0
    away_s: float = 0.0
    recoveries: int = 0
    waited_s: float = 0.0
    replayed_positions: int = 0
    kv_budget_positions: int = 0
    disk_bytes: int = 0
    peer_bytes: int = 0
    hub_bytes: int = 0
    decode_batches: Mapping[int, int] = field(default_factory=dict)
    expert_load: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    used_memory_bytes: int = 0
    memory: str = ""


@dataclass(frozen=True, slots=True)
class NodeProgress:
    """How much of its part of the model a node has loaded, from `source` ("": its own disk).

    `free_bytes` are those of the disk that keeps it; 0 if it is not kept.
    """

    name: str
    done_bytes: int
    total_bytes: int
    source: str = ""
    free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Holding:
    """What a node's worker holds of a model. `experts` is the number of its experts in all layers together.

    `leads`: it has attention and KV caches, not only experts. `coordinates`: it is the coordinator too. `progress` is
    how much is loaded; None if all is. `spare_layers` are those of a spare copy of another stage.
    """

    model: str
    epoch: int
    stage: int
    layers: range
    experts: int
    leads: bool
    coordinates: bool
    weights_bytes: int
    stats: WorkerStats = field(default_factory=WorkerStats)
    progress: NodeProgress | None = None
    spare_layers: range = range(0)
    spare_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ServingStatus:
    """The cluster's model. `coordinator` is a node id; `epoch` grows with every placement."""

    model: str
    epoch: int
    state: ServingState
    coordinator: str
    failure: str
    node_ids: tuple[str, ...]
    load_s: float
    context_tokens: int
    chunk_length: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node. `link` is the measured link from this node to it, `links` are its own measured links to others.

    A node that is SUSPECT is present, but has been silent for `silent_s`.
    `keeps_authority`: it can let others in, and remove them.
    """

    info: NodeInfo
    shown_name: str
    state: NodeState
    link: LinkSpeed | None
    holding: Holding | None
    links: Mapping[str, LinkSpeed]
    free_disk_bytes: int = 0
    keeps_authority: bool = False
    silent_s: float = 0.0

    @property
    def is_here(self) -> bool:
        """Whether the node is present."""
        return self.state in (NodeState.PRESENT, NodeState.SUSPECT)


@dataclass(frozen=True, slots=True)
class RemovedNode:
    """A node that was removed from the cluster, and when (Unix time)."""

    node_id: str
    name: str
    at_s: int


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """A cluster as one node sees it. `nodes` begins with that node; `refused` says why other nodes may not join.

    `removed` are those that may never come back.

    `coordinator_address` is the address at which this node reaches the model's coordinator; "" if there is none.
    `api_url` is where this node serves the HTTP APIs, "" if it does not.
    """

    cluster_id: str
    insecure: bool
    nodes: tuple[NodeStatus, ...]
    serving: ServingStatus | None
    coordinator_address: str
    refused: tuple[str, ...]
    api_url: str = ""
    removed: tuple[RemovedNode, ...] = ()

    @property
    def own(self) -> NodeStatus:
        """The node that was asked."""
        return self.nodes[0]

    @property
    def here(self) -> dict[str, NodeStatus]:
        """The present nodes, by id."""
        return {node.info.node_id: node for node in self.nodes if node.is_here}

    @property
    def ready(self) -> ServingStatus | None:
        """The cluster's model if it is ready, else None."""
        return self.serving if self.serving and self.serving.state is ServingState.READY else None

    @property
    def coordinator_stats(self) -> WorkerStats:
        """The counts of the coordinator's worker; zeros if there is none."""
        holdings = (node.holding for node in self.nodes)
        return next((holding.stats for holding in holdings if holding and holding.coordinates), WorkerStats())

    @property
    def float_bytes(self) -> int:
        """The bytes of the floats in which this node computes."""
        return 4 if self.own.info.hardware.dtype == "float32" else 2

    def name(self, node_id: str) -> str:
        """Return a node's shown name; "?" if it is unknown."""
        return next((node.shown_name for node in self.nodes if node.info.node_id == node_id), "?")

    def capacities(self) -> list[NodeCapacity]:
        """Return the capacities of the present nodes."""
        return [capacity(node.info, node.shown_name) for node in self.here.values()]

    def links(self) -> Links:
        """Return the links between the present nodes, as they measured them."""
        return links_from(self.own.info.node_id, {node_id: node.links for node_id, node in self.here.items()})


@dataclass(frozen=True, slots=True)
class LoadStatus:
    """The progress of loading a model. `placement` is None until it is known."""

    serving: ServingStatus | None
    nodes: tuple[NodeProgress, ...]
    placement: Placement | None

"""Status messages: parses a node's answers to clients of its own machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from cluster.client.status import (
    ClusterStatus,
    Holding,
    LoadStatus,
    NodeProgress,
    NodeState,
    NodeStatus,
    RemovedNode,
    ServingState,
    ServingStatus,
    WorkerStats,
)
from cluster.errors import ClusterError
from cluster.membership.membership import LinkSpeed
from cluster.membership.node_message import from_message, links_from_messages
from cluster.placement import Placement
from cluster.wire import node_pb2 as pb
from cluster.wire import worker_pb2
from cluster.worker.memory_guard import MemoryUse

_STATES = {
    pb.Serving.LOADING: ServingState.LOADING,
    pb.Serving.READY: ServingState.READY,
    pb.Serving.FAILED: ServingState.FAILED,
}


def cluster_status(message: pb.ClusterStatus) -> ClusterStatus:
    """Return the cluster status of a message. Raises ClusterError for an invalid node."""
    return ClusterStatus(
        cluster_id=message.cluster_id,
        insecure=message.insecure,
        nodes=tuple(_node(node) for node in message.nodes),
        serving=serving_status(message.serving),
        coordinator_address=message.coordinator_address,
        refused=tuple(message.refused),
        api_url=message.api_url,
        removed=tuple(RemovedNode(removal.node_id, removal.name, removal.at_s) for removal in message.removed),
    )


def load_status(message: pb.LoadStatus) -> LoadStatus:
    """Return the load status of a message."""
    return LoadStatus(
        serving=serving_status(message.serving),
        nodes=_progress(message.nodes),
        placement=Placement.parse(message.placement) if message.placement else None,
    )


def pull_status(message: pb.PullStatus) -> tuple[NodeProgress, ...]:
    """Return the nodes that lack a part of a pulled model."""
    return _progress(message.nodes)


def _progress(nodes: Iterable[pb.NodeProgress]) -> tuple[NodeProgress, ...]:
    return tuple(NodeProgress(n.name, n.done_bytes, n.total_bytes, n.source, n.free_bytes) for n in nodes)


def serving_status(message: pb.Serving) -> ServingStatus | None:
    """Return the served model of a message, None if there is none."""
    if not message.epoch:
        return None
    return ServingStatus(
        model=message.model,
        epoch=message.epoch,
        state=_STATES.get(message.state, ServingState.LOADING),  # another version may have more states
        coordinator=message.coordinator,
        failure=message.failure,
        node_ids=tuple(message.node_ids),
        load_s=message.load_s,
        context_tokens=message.context_tokens,
        chunk_length=message.chunk_length,
    )


def _node(message: pb.NodeStatus) -> NodeStatus:
    if message.state not in list(NodeState):
        raise ClusterError(f"a node is {message.state[:80]!r}, which this version does not know: restart this node")
    return NodeStatus(
        info=from_message(message.info),
        shown_name=message.shown_name,
        state=NodeState(message.state),
        link=LinkSpeed(message.latency_s, message.bytes_per_s) if message.latency_s else None,
        holding=_holding(message.holding, message.shown_name),
        links=links_from_messages(message.links),
        free_disk_bytes=message.free_disk_bytes,
        keeps_authority=message.keeps_authority,
        silent_s=message.silent_s,
    )


def _holding(message: pb.Holding, node: str) -> Holding | None:
    if not message.epoch:
        return None
    told = message.progress
    return Holding(
        model=message.model,
        epoch=message.epoch,
        stage=message.stage,
        layers=range(message.first_layer, message.end_layer),
        experts=message.experts,
        leads=message.leads,
        coordinates=message.coordinates,
        weights_bytes=message.weights_bytes,
        stats=_stats(message.stats),
        progress=NodeProgress(node, told.done_bytes, told.total_bytes, told.source) if told.total_bytes else None,
        spare_layers=range(message.spare_first_layer, message.spare_end_layer),
        spare_bytes=message.spare_bytes,
    )


def _stats(message: worker_pb2.WorkerStats) -> WorkerStats:
    names = {field.name for field in dataclasses.fields(WorkerStats)} & set(message.DESCRIPTOR.fields_by_name)
    counts = {name: getattr(message, name) for name in names - {"memory", "decode_batches", "expert_load"}}
    use = MemoryUse.from_message(message.memory)
    of_memory = {
        "used_memory_bytes": use.used_bytes,
        "memory": "out" if use.is_out else "short" if use.is_short else "",
    }
    of_layers = {
        "decode_batches": dict(message.decode_batches),
        "expert_load": {of.layer: tuple(load / 16 for load in of.load) for of in message.expert_load},
    }
    return WorkerStats(**counts | of_memory | of_layers)

"""Cluster view: the cluster, its model and a plan as JSON, for the dashboard and other programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.client import ClusterStatus, Holding, NodeProgress, NodeStatus, ServingStatus
from cluster.gateway.served import name_of
from cluster.model_list import ListedModel
from cluster.placement import Placement, Prediction, loads
from cluster.placement.costs import ModelCosts


def of_status(status: ClusterStatus) -> dict[str, Any]:
    """Return the cluster, its nodes, links and model."""
    return {
        "cluster_id": status.cluster_id,
        "insecure": status.insecure,
        "model": None if status.serving is None else _model(status, status.serving),
        "nodes": [_node(node) for node in status.nodes],
        "links": [
            {
                "from": node.info.node_id,
                "to": other,
                "latency_ms": round(link.latency_s * 1e3, 3),
                "bytes_per_s": round(link.bytes_per_s),
            }
            for node in status.here.values()
            for other, link in node.links.items()
        ],
        "refused": list(status.refused),
    }


def of_plan(
    placement: Placement, costs: ModelCosts, prediction: Prediction, names: Mapping[str, str]
) -> dict[str, Any]:
    """Return who would hold what of a model, and how fast it would answer; `names` by node id."""
    held = loads(costs, placement.stages)
    return {
        "model": name_of(placement.model),
        "stages": [
            {
                "node": names[stage.node_id],
                "first_layer": stage.layers.start,
                "end_layer": stage.layers.stop,
                "bytes": held[stage.node_id].weights_bytes,
                "experts_on": [names[peer.node_id] for peer in stage.peers],
            }
            for stage in placement.stages
        ],
        "kv_positions": placement.kv_positions,
        "tokens_per_s": round(prediction.tokens_per_s, 2),
        "most_tokens_per_s": round(prediction.most_tokens_per_s, 2),
    }


def of_models(models: Sequence[ListedModel]) -> list[dict[str, Any]]:
    """Return the models on the disks of the cluster: each once, with the nodes that have it."""
    by_name: dict[str, dict[str, Any]] = {}
    for listed in models:
        model = listed.model
        one = by_name.setdefault(
            model.name, {"name": model.name, "bytes": model.weights_bytes, "form": model.form, "nodes": []}
        )
        one["nodes"].append(listed.node)
    return list(by_name.values())


def of_progress(nodes: Sequence[NodeProgress]) -> list[dict[str, Any]]:
    """Return how much each node has loaded."""
    return [_progress(node) for node in nodes]


def of_experts(status: ClusterStatus) -> list[dict[str, Any]]:
    """Return by layer how often each expert was chosen, as a multiple of the layer's mean."""
    layers = (
        {"layer": layer, "node": node.shown_name, "load": [round(times, 2) for times in load]}
        for node in status.here.values()
        if node.holding is not None
        for layer, load in node.holding.stats.expert_load.items()
    )
    return sorted(layers, key=lambda row: row["layer"])


def _model(status: ClusterStatus, serving: ServingStatus) -> dict[str, Any]:
    stats = status.coordinator_stats
    return {
        "name": name_of(serving.model),
        "state": serving.state,
        "failure": serving.failure,
        "coordinator": serving.coordinator,
        "context_tokens": serving.context_tokens,
        "load_s": serving.load_s,
        "active_requests": stats.active_requests,
        "drafts_compared": stats.drafts_compared,
        "drafts_accepted": stats.drafts_accepted,
        "recoveries": stats.recoveries,
    }


def _node(node: NodeStatus) -> dict[str, Any]:
    hardware = node.info.hardware
    return {
        "id": node.info.node_id,
        "name": node.shown_name,
        "state": node.state,
        "chip": hardware.chip,
        "memory_bytes": hardware.memory_bytes,
        "offered_bytes": node.info.offered_bytes,
        "free_disk_bytes": node.free_disk_bytes,
        "version": node.info.version,
        "holding": None if node.holding is None else _holding(node.holding),
    }


def _holding(holding: Holding) -> dict[str, Any]:
    stats = holding.stats
    return {
        "model": name_of(holding.model),
        "stage": holding.stage,
        "first_layer": holding.layers.start,
        "end_layer": holding.layers.stop,
        "experts": holding.experts,
        "leads": holding.leads,
        "coordinates": holding.coordinates,
        "weights_bytes": holding.weights_bytes,
        "frames": stats.frames,
        "compute_s": stats.compute_s,
        "sent_bytes": stats.sent_bytes,
        "decode_batches": stats.decode_batches,
        "positions": stats.positions,
        "kv_bytes": stats.kv_bytes,
        "kv_positions": stats.kv_positions,
        "progress": None if holding.progress is None else _progress(holding.progress),
    }


def _progress(progress: NodeProgress) -> dict[str, Any]:
    return {
        "name": progress.name,
        "done_bytes": progress.done_bytes,
        "total_bytes": progress.total_bytes,
        "source": progress.source,
    }

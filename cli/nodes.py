"""Nodes for display: rows from a cluster's status, and tables of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cli.tables import HeadedTable
from cli.units import span_text, tokens_text
from cli.visible import visible
from mlx_moe.node_placement import NodePlacement
from mlx_moe.units import bytes_text

if TYPE_CHECKING:
    from cluster.client import ClusterStatus, Holding, NodeStatus

_LEGEND = {
    "KV": "cached tokens",
    "peak": "peak memory",
    "ms": "latency from here",
    "GB/s": "bandwidth",
}


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node: what it offers, its part of the served model, and the link from this node to it.

    `role` is "" if it holds nothing. Latency and rate of a link that was not measured are 0.
    """

    name: str
    node_id: str
    addresses: tuple[str, ...]
    state: str
    is_here: bool
    chip: str
    offered_bytes: int
    role: str
    stage: int
    layers: range
    experts: int
    weights_bytes: int
    kv_positions: int
    peak_memory_bytes: int
    used_memory_bytes: int
    memory: str
    latency_s: float
    bytes_per_s: float
    keeps_authority: bool
    silent_s: float = 0.0

    @property
    def placement(self) -> NodePlacement:
        """The part that it holds."""
        return NodePlacement(self.name, self.layers, self.experts, self.weights_bytes, self.peak_memory_bytes)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        layers = [self.layers.start, self.layers.stop] if self.role else None
        value = {**dataclasses.asdict(self), "layers": layers}
        del value["is_here"]  # `state` says it
        return value


def node_rows(status: ClusterStatus) -> list[NodeRow]:
    """Return all known nodes, this machine's first."""
    return [_row(node) for node in status.nodes]


def holders(rows: Sequence[NodeRow]) -> list[NodeRow]:
    """Return the nodes that hold a part of the model, by stage, leaders before peers."""
    return sorted((row for row in rows if row.role), key=lambda row: (row.stage, row.role == "experts", row.name))


def _row(node: NodeStatus) -> NodeRow:
    holding, link = node.holding, node.link
    return NodeRow(
        name=node.shown_name,
        node_id=node.info.node_id,
        addresses=node.info.addresses,
        state=str(node.state),
        is_here=node.is_here,
        chip=node.info.hardware.chip,
        offered_bytes=node.info.offered_bytes,
        role=_role(holding),
        stage=holding.stage if holding else 0,
        layers=holding.layers if holding else range(0),
        experts=holding.experts if holding else 0,
        weights_bytes=holding.weights_bytes if holding else 0,
        kv_positions=holding.stats.kv_positions if holding else 0,
        peak_memory_bytes=holding.stats.peak_memory_bytes if holding else 0,
        used_memory_bytes=holding.stats.used_memory_bytes if holding else 0,
        memory=holding.stats.memory if holding else "",
        latency_s=link.latency_s if link else 0.0,
        bytes_per_s=link.bytes_per_s if link else 0.0,
        keeps_authority=node.keeps_authority,
        silent_s=node.silent_s,
    )


def _state(row: NodeRow) -> str:
    """Return what a node is: its role in the model that is served, or its state if that is another than present."""
    if row.state == "suspect":
        return f"suspect: silent for {row.silent_s:.0f} s"
    if not row.role or not row.is_here:
        return row.state
    return f"{row.role}, memory {row.memory}" if row.memory else row.role


def _role(holding: Holding | None) -> str:
    if holding is None:
        return ""
    if holding.leads:
        return "coordinator" if holding.coordinates else "leads"
    return "experts" if holding.layers else "spare"


def cluster_table(rows: Sequence[NodeRow]) -> HeadedTable:
    """Return a table of all nodes."""
    table = HeadedTable(
        *("node", "state", "chip", "offers", "layers", "experts", "KV", "peak", "ms", "GB/s"),
        texts=("node", "state", "chip"),
        optional=("chip", "GB/s", "KV", "ms", "peak", "experts", "offers", "layers"),
        legend=_LEGEND,
    )
    for row in rows:
        table.add_row(
            visible(row.name),
            _state(row),
            visible(row.chip),
            bytes_text(row.offered_bytes),
            *(_held(row) if row.role else ("", "", "", "")),
            *_link(row),
            style="" if row.is_here else "bright_black",
        )
    return table


def holders_table(rows: Sequence[NodeRow]) -> HeadedTable:
    """Return a table of which node holds which part, in the order of the model."""
    table = HeadedTable(
        *("node", "role", "layers", "experts", "weights", "peak", "ms", "GB/s"),
        texts=("node", "role"),
        optional=("GB/s", "ms", "peak", "weights", "experts"),
        legend=_LEGEND,
    )
    for row in holders(rows):
        layers, experts, _, peak = _held(row)
        weights = bytes_text(row.weights_bytes)
        table.add_row(visible(row.name), row.role, layers, experts, weights, peak, *_link(row))
    return table


def placement_table(nodes: Sequence[NodePlacement]) -> HeadedTable:
    """Return a table of a placement alone, without links and roles."""
    table = HeadedTable(
        *("node", "layers", "experts", "weights", "peak memory"),
        texts=("node",),
        optional=("peak memory", "weights", "experts"),
    )
    for p in nodes:
        memory = bytes_text(p.weights_bytes), bytes_text(p.peak_memory_bytes)
        table.add_row(visible(p.node), span_text(p.layers), f"{p.experts:,}", *memory)
    return table


def _held(row: NodeRow) -> tuple[str, str, str, str]:
    kv = "" if row.role in ("experts", "spare") else tokens_text(row.kv_positions)
    peak = bytes_text(row.peak_memory_bytes) if row.peak_memory_bytes else ""
    if row.role == "spare":
        return "", "", kv, peak
    return span_text(row.layers), f"{row.experts:,}", kv, peak


def _link(row: NodeRow) -> tuple[str, str]:
    if not row.latency_s or not row.is_here:
        return "", ""
    return f"{row.latency_s * 1e3:.2f}", f"{row.bytes_per_s / 1e9:.2f}"

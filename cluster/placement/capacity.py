"""Capacity: the memory and speed of nodes, and of the links between them. Times are in seconds, sizes in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mlx_moe.errors import InvalidRequestError

HARD_LIMIT = 0.95
"""Share of a node's `memory_bytes` that a plan may fill.

The engine refuses to load more than 85 %, because it does not know how much KV cache and temporaries will follow. A
plan counts both, so it may use memory up to the limit at which a worker aborts.
"""

HOP_S = 0.7e-3
"""One hop over 10 GbE, the sum of (A): gRPC 180 us (M), wire 60 us (A), copies out of and into MLX 250 us (A), waking
an idle stream 200 us (M: 160 to 610 us for a round trip with 20 ms between frames)."""

TEN_GIGABIT_BYTES_PER_S = 1.15e9
"""(M) Rate of a gRPC stream of raw bytes over 10 GbE with TLS on one core."""


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """The memory and speed of one node.

    `memory_bytes` is the memory that MLX may use: on a Mac the GPU's limit, which the owner can raise to
    `raised_memory_bytes` (0: cannot be raised). `withheld_bytes` is the memory that the owner keeps back by --memory.
    `bandwidth_gbps` is the measured rate in GB/s at which weights are read, `tflops` the speed of matrix products with
    quantized weights. Each layer takes a fixed time beside reading its bytes: `dense_layer_us`, `moe_layer_us`
    (grouped-query attention) or `mla_moe_layer_us` (latent attention).
    """

    node_id: str
    name: str
    memory_bytes: int
    bandwidth_gbps: float
    tflops: float
    dense_layer_us: float
    moe_layer_us: float
    mla_moe_layer_us: float
    raised_memory_bytes: int = 0
    withheld_bytes: int = 0
    is_mac: bool = False

    def generous(self) -> NodeCapacity:
        """Return the node with the memory that its owner keeps back."""
        return replace(self, memory_bytes=self.memory_bytes + self.withheld_bytes, withheld_bytes=0)

    def raised(self) -> NodeCapacity:
        """Return the node with its GPU limit raised to `raised_memory_bytes`."""
        return replace(self, memory_bytes=max(self.memory_bytes, self.raised_memory_bytes))


@dataclass(frozen=True, slots=True)
class Link:
    """The connection from one node to another, in one direction."""

    latency_s: float = HOP_S
    bytes_per_s: float = TEN_GIGABIT_BYTES_PER_S

    def seconds(self, nbytes: float) -> float:
        """Return the time in which `nbytes` are sent."""
        return self.latency_s + nbytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class Links:
    """The measured links by (sender id, receiver id); `default` for pairs without a measurement.

    The `lost` ones, of nodes that do not reach each other, are so slow that a plan avoids them.
    """

    default: Link = Link()
    measured: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    lost: frozenset[tuple[str, str]] = frozenset()

    def between(self, sender: str, receiver: str) -> Link:
        """Return the link from one node id to another."""
        return self.measured.get((sender, receiver), self.default)

    def in_steps(self, ratio: float) -> Links:
        """Return the links after numbers that differ by at most the factor `ratio` were replaced by the slowest."""
        every = (self.default, *self.measured.values())
        latencies = _steps(sorted((link.latency_s for link in every), reverse=True), ratio)
        rates = _steps(sorted(link.bytes_per_s for link in every), ratio)
        stepped = {link: Link(latencies[link.latency_s], rates[link.bytes_per_s]) for link in every}
        return Links(stepped[self.default], {way: stepped[link] for way, link in self.measured.items()}, self.lost)


def _steps(ordered: Sequence[float], ratio: float) -> dict[float, float]:
    """Map each value to its representative: the first of a run of values that differ by at most the factor `ratio`."""
    steps: dict[float, float] = {}
    first = ordered[0]
    for value in ordered:
        if max(value, first) > ratio * min(value, first):
            first = value
        steps[value] = first
    return steps


def size_text(nbytes: float) -> str:
    """Return a size for people: "1.5 GB", "12.0 MB"."""
    unit, name = (1e9, "GB") if nbytes >= 1e9 else (1e6, "MB") if nbytes >= 1e6 else (1e3, "kB")
    return f"{nbytes / unit:.1f} {name}"


def node_classes(nodes: Sequence[NodeCapacity], links: Links) -> list[list[NodeCapacity]]:
    """Return the nodes grouped into classes whose members a plan may exchange for each other.

    Raises:
        InvalidRequestError: two nodes have the same id, or there are no nodes.
    """
    if len({node.node_id for node in nodes}) < len(nodes) or not nodes:
        raise InvalidRequestError(f"a plan needs nodes with ids of their own; got {[node.node_id for node in nodes]}")
    classes: list[list[NodeCapacity]] = []
    for node in nodes:
        for members in classes:
            if _interchangeable(members[0], node, nodes, links):
                members.append(node)
                break
        else:
            classes.append([node])
    return classes


def _interchangeable(a: NodeCapacity, b: NodeCapacity, nodes: Sequence[NodeCapacity], links: Links) -> bool:
    """Whether swapping two nodes changes no plan's cost. The relation is transitive."""
    if replace(a, node_id=b.node_id, name=b.name) != b:
        return False
    if not links.measured:
        return True
    if links.between(a.node_id, b.node_id) != links.between(b.node_id, a.node_id):
        return False
    others = [node.node_id for node in nodes if node.node_id not in (a.node_id, b.node_id)]
    return all(
        links.between(a.node_id, other) == links.between(b.node_id, other)
        and links.between(other, a.node_id) == links.between(other, b.node_id)
        for other in others
    )

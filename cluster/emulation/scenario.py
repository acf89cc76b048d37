"""Scenario: what is emulated. Travels to the workers in place of a model's name."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal

from cluster.cost_reader import read_costs
from cluster.errors import ClusterError
from cluster.placement import Links, ModelCosts, NodeCapacity
from cluster.placement.capacity import Link

KIND = "emulated"
"""A model's name that begins so, and goes on after a colon, is a scenario."""

FLOAT_BYTES = 2

WIRES = {
    # What the wire takes beside what gRPC takes, which is real here. All (A); the first is the speed model's.
    "10gbe": Link(60e-6, 1.15e9),
    "tb": Link(30e-6, 2.5e9),
    "1gbe": Link(150e-6, 0.117e9),
    "loopback": Link(0.0, math.inf),
}

GRPC = Link(390e-6, 0.4e9)
"""(M) What gRPC, TLS, checksums and arrays take for a hop in Python beside raw TCP: bench.hop, 375 to 424 us for 14 KB;
with frames of 0.5 to 7.3 MB in its rings of 2 and 4, 0.38 to 0.55 GB/s. Real in an emulation, so only a prediction
counts it."""

GRAPH_S = 250e-6
"""(A) Leaving and entering the MLX graph on Metal, once for each frame in each stage; the speed model's."""

DraftKind = Literal["none", "stated", "mtp", "ngram"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One emulated cluster.

    `script` are the tokens of all positions, again and again: what the model writes is what stands there. `draft` is
    who guesses them: "stated" is right as often as `acceptance` says by depth; "mtp" is the demo model's own layer, for
    which the script must be what the demo model says.
    """

    model: str
    nodes: tuple[NodeCapacity, ...]
    wire: str
    script: tuple[int, ...]
    draft: DraftKind = "none"
    acceptance: tuple[float, ...] = ()
    seed: int = 0

    def costs(self) -> ModelCosts:
        """Return what the emulated model costs."""
        return read_costs(self.model, float_bytes=FLOAT_BYTES)

    def links(self) -> Links:
        """Return the links for a prediction: wire, gRPC, Metal; on 10 GbE .06 + .39 + .25 ms, the planner's HOP_S."""
        return Links(default=_in_series(WIRES[self.wire], GRPC, Link(GRAPH_S, math.inf)))

    def on(self, node_ids: Mapping[str, str]) -> Scenario:
        """Return the same with its nodes' ids in place of what they were called; those without one do nothing."""
        used = (node for node in self.nodes if node.node_id in node_ids)
        return replace(self, nodes=tuple(replace(node, node_id=node_ids[node.node_id]) for node in used))

    def to_name(self) -> str:
        """Return it as a model's name."""
        return f"{KIND}:{json.dumps(asdict(self))}"

    @classmethod
    def from_name(cls, name: str) -> Scenario:
        """Read it back. Raises ClusterError."""
        try:
            values = json.loads(name.removeprefix(f"{KIND}:"))
            nodes = tuple(NodeCapacity(**node) for node in values.pop("nodes"))
            for key in ("script", "acceptance"):
                values[key] = tuple(values[key])
            return cls(nodes=nodes, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ClusterError(f"this scenario of an emulation cannot be read: {exc}") from exc


def _in_series(*links: Link) -> Link:
    """Return the link that has these one after the other."""
    return Link(sum(link.latency_s for link in links), 1 / sum(1 / link.bytes_per_s for link in links))

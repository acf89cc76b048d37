"""Scenario: what is emulated. It is sent to the workers as the model's name."""

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
"""A model name with this prefix and a colon is a scenario."""

FLOAT_BYTES = 2

WIRES = {
    # Time of the wire alone; the time of gRPC is real here. All (A); the first is also used by the speed model.
    "10gbe": Link(60e-6, 1.15e9),
    "tb": Link(30e-6, 2.5e9),
    "1gbe": Link(150e-6, 0.117e9),
    "loopback": Link(0.0, math.inf),
}

GRPC = Link(390e-6, 0.4e9)
"""(M) Time of gRPC, TLS, checksums and arrays for a hop in Python, beyond raw TCP: bench.hop, 375 to 424 us for 14 KB;
with frames of 0.5 to 7.3 MB in its rings of 2 and 4, 0.38 to 0.55 GB/s. Real in an emulation, so only a prediction
counts it."""

GRAPH_S = 250e-6
"""(A) Time to leave and enter the MLX graph on Metal, once per frame and stage; as in the speed model."""

DraftKind = Literal["none", "stated", "mtp", "ngram"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One emulated cluster.

    `script`: the tokens that the model writes, by position, repeated if too short. `draft`: "stated" is right at the
    rates of `acceptance`, by depth; "mtp" is the demo model's MTP layer, for which the script must be the demo model's
    output.
    """

    model: str
    nodes: tuple[NodeCapacity, ...]
    wire: str
    script: tuple[int, ...]
    draft: DraftKind = "none"
    acceptance: tuple[float, ...] = ()
    seed: int = 0

    def costs(self) -> ModelCosts:
        """Return the costs of the emulated model."""
        return read_costs(self.model, float_bytes=FLOAT_BYTES)

    def links(self) -> Links:
        """Return the links for a prediction: wire, gRPC, Metal; on 10 GbE .06 + .39 + .25 ms, the planner's HOP_S."""
        return Links(default=_in_series(WIRES[self.wire], GRPC, Link(GRAPH_S, math.inf)))

    def on(self, node_ids: Mapping[str, str]) -> Scenario:
        """Return the scenario with the nodes' ids instead of their names; nodes without an id are removed."""
        used = (node for node in self.nodes if node.node_id in node_ids)
        return replace(self, nodes=tuple(replace(node, node_id=node_ids[node.node_id]) for node in used))

    def to_name(self) -> str:
        """Return the scenario as a model name."""
        return f"{KIND}:{json.dumps(asdict(self))}"

    @classmethod
    def from_name(cls, name: str) -> Scenario:
        """Read a scenario from a model name. Raises ClusterError."""
        try:
            values = json.loads(name.removeprefix(f"{KIND}:"))
            nodes = tuple(NodeCapacity(**node) for node in values.pop("nodes"))
            for key in ("script", "acceptance"):
                values[key] = tuple(values[key])
            return cls(nodes=nodes, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ClusterError(f"the scenario of an emulation cannot be read: {exc}") from exc


def _in_series(*links: Link) -> Link:
    """Return the link equal to these links in series."""
    return Link(sum(link.latency_s for link in links), 1 / sum(1 / link.bytes_per_s for link in links))

"""Scenario: what is emulated. Travels to the workers in place of a model's name."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from cluster.errors import ClusterError
from cluster.placement import Links, ModelCosts, NodeCapacity, read_costs
from cluster.placement.capacity import Link

PREFIX = "emulated:"
"""A model's name that begins so is a scenario."""

FLOAT_BYTES = 2

WIRES = {
    # What the wire takes beside what gRPC takes, which is real here. All (A); the first is the speed model's.
    "10gbe": Link(60e-6, 1.15e9),
    "tb": Link(30e-6, 2.5e9),
    "1gbe": Link(150e-6, 0.117e9),
    "loopback": Link(0.0, float("inf")),
}

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
        """Return the links for a prediction: the wire and what is assumed of Metal, without what gRPC takes."""
        wire = WIRES[self.wire]
        return Links(default=Link(wire.latency_s + GRAPH_S, wire.bytes_per_s))

    def to_name(self) -> str:
        """Return it as a model's name."""
        return PREFIX + json.dumps(asdict(self))

    @classmethod
    def from_name(cls, name: str) -> Scenario:
        """Read it back. Raises ClusterError."""
        try:
            values = json.loads(name.removeprefix(PREFIX))
            nodes = tuple(NodeCapacity(**node) for node in values.pop("nodes"))
            for key in ("script", "acceptance"):
                values[key] = tuple(values[key])
            return cls(nodes=nodes, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise ClusterError(f"this is no scenario of an emulation: {exc}") from exc

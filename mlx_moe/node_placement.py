"""NodePlacement: what one node holds of a model, for display."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodePlacement:
    """What one node holds of a model. `experts` is the number of owned experts in all layers together."""

    node: str
    layers: range
    experts: int
    weights_bytes: int
    peak_memory_bytes: int

"""The feed-forward half of a decoder layer: a dense MLP, or routed experts with shared ones beside them.

Shapes: L positions, D hidden_size, K experts chosen for each position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import mlx.core as mx

from mlx_moe.weights import LoadedParameters

if TYPE_CHECKING:
    from mlx_moe.layers.experts import Experts
    from mlx_moe.layers.router import Router


class ExpertPeers(Protocol):
    """The owners elsewhere of the experts that this shard lacks."""

    def partial_sum(self, layer: int, x: mx.array, indices: mx.array, weights: mx.array) -> mx.array:
        """Return the weighted sum `[L, D]` of all chosen experts that the peers own."""


def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """Return silu(gate) * up. Source: arXiv 2002.05202."""
    return gate * mx.sigmoid(gate) * up


class MLP:
    """A dense gated feed-forward."""

    def __init__(self, parameters: LoadedParameters) -> None:
        self._gate_proj = parameters.linear("gate_proj")
        self._up_proj = parameters.linear("up_proj")
        self._down_proj = parameters.linear("down_proj")

    def __call__(self, x: mx.array) -> mx.array:
        """Map x `[L, D]` to `[L, D]`."""
        return self._down_proj(swiglu(self._gate_proj(x), self._up_proj(x)))


class MoE:
    """Route, run the experts that are here, add what peers computed, add the shared experts."""

    def __init__(self, router: Router, experts: Experts | None, shared_experts: MLP | None) -> None:
        self.router = router
        self.experts = experts
        self.shared_experts = shared_experts

    def __call__(self, x: mx.array, layer: int, peers: ExpertPeers | None) -> mx.array:
        """Map x `[L, D]` to `[L, D]`; `peers` own the experts that are not here."""
        indices, weights = self.router(x)
        parts = []
        if self.experts is not None:
            parts.append(self.experts(x, indices, weights))
        if peers is not None:
            parts.append(peers.partial_sum(layer, x, indices, weights))
        if self.shared_experts is not None:
            parts.append(self.shared_experts(x))
        return sum(parts[1:], parts[0])

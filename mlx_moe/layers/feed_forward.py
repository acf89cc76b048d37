"""The feed-forward half of a decoder layer: a dense MLP, or routed experts with shared ones beside them.

Shapes: L positions, D hidden_size, K experts chosen for each position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import mlx.core as mx

from mlx_moe.layers.weights import LoadedParameters

if TYPE_CHECKING:
    from mlx_moe.layers.experts import Experts
    from mlx_moe.layers.router import Router


class ExpertPeers(Protocol):
    """The owners elsewhere of the experts that this shard lacks."""

    def rows(self, layer: int, x: mx.array, indices: mx.array, own: Experts | None) -> mx.array:
        """Return what every chosen expert makes of its row of x `[L, D]`, by indices `[L, K]`: `[L, K, D]`.

        `own` are the shard's experts of the layer, to be run meanwhile. x and indices are under way already.
        """


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
    """Route, collect what each chosen expert makes of a position, add it up by weight, add the shared experts."""

    def __init__(self, router: Router, experts: Experts | None, shared_experts: MLP | None) -> None:
        self.router = router
        self.experts = experts
        self.shared_experts = shared_experts

    def __call__(self, x: mx.array, layer: int, peers: ExpertPeers | None) -> mx.array:
        """Map x `[L, D]` to `[L, D]`; `peers` own the experts that are not here.

        Whoever computed the rows, they are weighted and added here, in one order: the sum is the same to the bit.
        """
        indices, weights = self.router(x)
        if self.experts is not None and self.experts.complete:
            rows = self.experts(x, indices)
            shared = None if self.shared_experts is None else self.shared_experts(x)
        else:
            assert peers is not None  # whoever splits experts gives the stage its peers
            mx.async_eval(x, indices)  # first what the peers wait for
            shared = None if self.shared_experts is None else self.shared_experts(x)
            if shared is not None:
                mx.async_eval(shared)
            rows = peers.rows(layer, x, indices, self.experts)
        y = (rows * weights[..., None].astype(rows.dtype)).sum(axis=-2)
        return y if shared is None else y + shared

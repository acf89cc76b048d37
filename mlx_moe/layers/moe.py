"""MoE: a router, routed experts on any nodes, and shared experts.

Shapes: L positions, D hidden_size, K experts chosen for each position.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_moe.layers.experts import RoutedExperts
from mlx_moe.layers.feed_forward import MLP
from mlx_moe.layers.router import Router
from mlx_moe.layers.steps import Steps


class MoE:
    """Routes positions, adds the results of the chosen experts by weight, and adds the shared experts."""

    def __init__(self, router: Router, experts: RoutedExperts, shared_experts: MLP | None) -> None:
        self._router = router
        self._experts = experts
        self._shared_experts = shared_experts

    def steps(self, x: mx.array) -> Steps[mx.array]:
        """Map x `[L, D]` to `[L, D]`.

        Rows of all owners are weighted and added here in one order, so the sum is bit-identical whoever computed them.
        """
        indices, weights = self._router(x)
        shared = None if self._shared_experts is None else self._shared_experts(x)
        rows = yield from self._experts.steps(x, indices, shared)
        y = (rows * weights[..., None].astype(rows.dtype)).sum(axis=-2)
        return y if shared is None else y + shared

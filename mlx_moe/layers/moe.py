"""MoE: a router, routed experts wherever they are, and shared experts beside them.

Shapes: L positions, D hidden_size, K experts chosen for each position.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_moe.layers.experts import RoutedExperts
from mlx_moe.layers.feed_forward import MLP
from mlx_moe.layers.router import Router


class MoE:
    """Route, collect what each chosen expert makes of a position, add it up by weight, add the shared experts."""

    def __init__(self, router: Router, experts: RoutedExperts, shared_experts: MLP | None) -> None:
        self._router = router
        self._experts = experts
        self._shared_experts = shared_experts

    def __call__(self, x: mx.array) -> mx.array:
        """Map x `[L, D]` to `[L, D]`.

        Whoever computed the rows, they are weighted and added here, in one order: the sum is the same to the bit.
        """
        indices, weights = self._router(x)
        shared = None if self._shared_experts is None else self._shared_experts(x)
        rows = self._experts(x, indices, shared)
        y = (rows * weights[..., None].astype(rows.dtype)).sum(axis=-2)
        return y if shared is None else y + shared

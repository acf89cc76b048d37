"""MoE: a router, routed experts on any nodes, and shared experts.

Shapes: L positions, D hidden_size, K experts chosen for each position.
"""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from mlx_moe.layers.experts import RoutedExperts
from mlx_moe.layers.steps import Steps

Router = Callable[[mx.array], tuple[mx.array, mx.array]]
"""Maps x `[L, D]` to the indices `[L, K]` of the chosen experts and their weights `[L, K]` float32."""

SharedExperts = Callable[[mx.array], mx.array]
"""Maps x `[L, D]` to `[L, D]`."""


class MoE:
    """Routes positions, adds the results of the chosen experts by weight, and adds the shared experts."""

    def __init__(self, router: Router, experts: RoutedExperts, shared_experts: SharedExperts | None) -> None:
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

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
    """Routes positions, adds the results of the chosen experts by weight, and adds the shared experts.

    If it `weights_inputs`, one expert is chosen, whose input is multiplied by its weight instead.
    """

    def __init__(
        self,
        router: Router,
        experts: RoutedExperts,
        shared_experts: SharedExperts | None,
        *,
        weights_inputs: bool = False,
    ) -> None:
        self._router = router
        self._experts = experts
        self._shared_experts = shared_experts
        self._weights_inputs = weights_inputs

    def steps(self, x: mx.array) -> Steps[mx.array]:
        """Map x `[L, D]` to `[L, D]`.

        Rows of all owners are weighted and added here in one order, so the sum is bit-identical whoever computed them.
        """
        indices, weights = self._router(x)
        shared = None if self._shared_experts is None else self._shared_experts(x)
        if self._weights_inputs:
            rows = yield from self._experts.steps(x * weights.astype(x.dtype), indices, shared)
            y = rows.squeeze(-2)
        else:
            rows = yield from self._experts.steps(x, indices, shared)
            y = (rows * weights[..., None].astype(rows.dtype)).sum(axis=-2)
        return y if shared is None else y + shared

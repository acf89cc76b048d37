"""Experts: the routed experts that a shard owns, or a part of them.

Knows nothing of who owns the others. Shapes: L positions, D hidden_size, I moe_intermediate_size, E experts,
K chosen for each position.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_moe.layers.feed_forward import swiglu
from mlx_moe.weights import LoadedParameters

SORT_FROM = 64
"""From this many chosen (position, expert) pairs on, they are sorted by expert, so that each is read once."""


class Experts:
    """Owned rows of the expert stacks, and where each of all experts lies among them."""

    def __init__(self, n_routed_experts: int, owned: Sequence[int], parameters: LoadedParameters) -> None:
        self._gate = parameters.weight("gate_proj")
        self._up = parameters.weight("up_proj")
        self._down = parameters.weight("down_proj")
        self._local: mx.array | None = None
        if len(owned) < n_routed_experts:
            place = {expert: row for row, expert in enumerate(owned)}
            self._local = mx.array([place.get(e, -1) for e in range(n_routed_experts)], dtype=mx.int32)

    def __call__(self, x: mx.array, indices: mx.array, weights: mx.array) -> mx.array:
        """Return the weighted sum `[L, D]` of the owned among the chosen experts of x `[L, D]`.

        Choices `[L, K]` that are owned elsewhere add nothing: sums over a partition of owners make the whole.
        """
        owned: mx.array | None = None
        if self._local is not None:
            rows = self._local[indices]
            owned = (rows >= 0)[..., None]  # [L, K, 1]
            indices = mx.maximum(rows, 0)
        if indices.size < SORT_FROM:
            y = self._swiglu(x[:, None, None], indices, sorted_indices=False).squeeze(-2)  # [L, K, D]
        else:
            y = self._sorted(x, indices)
        y = y * weights[..., None].astype(y.dtype)
        if owned is not None:
            y = mx.where(owned, y, 0.0)  # not a weight of 0: an overflow in its place would make it NaN
        return y.sum(axis=-2)

    def _sorted(self, x: mx.array, indices: mx.array) -> mx.array:
        n_chosen = indices.shape[-1]
        order = mx.argsort(indices.flatten())
        y = self._swiglu(x[order // n_chosen][:, None], indices.flatten()[order], sorted_indices=True)
        return y.squeeze(-2)[mx.argsort(order)].reshape(*indices.shape, -1)

    def _swiglu(self, x: mx.array, indices: mx.array, *, sorted_indices: bool) -> mx.array:
        gate = self._gate.gather_matmul(x, indices, sorted_indices=sorted_indices)
        up = self._up.gather_matmul(x, indices, sorted_indices=sorted_indices)
        return self._down.gather_matmul(swiglu(gate, up), indices, sorted_indices=sorted_indices)

"""SparseMixer: a router that chooses two experts one after the other, each weighted among those that come close to it.

Source: arXiv 2409.12136, as in transformers' `phimoe`. Shapes: L positions, D hidden_size, E experts.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_moe.layers.weights import Linear


class SparseMixer:
    """Chooses the best expert, then the best of the others; `jitter` says how close a score comes to the best."""

    def __init__(self, gate: Linear, jitter: float) -> None:
        self._gate = gate
        self._jitter = jitter

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Route x `[L, D]`; return indices `[L, 2]` and weights `[L, 2]` float32."""
        scores = self._gate(x.astype(mx.float32))  # [L, E]
        first, first_weight = self._best(scores, scores)
        others = mx.put_along_axis(scores, first, mx.array(-mx.inf), axis=-1)
        second, second_weight = self._best(others, scores)
        return mx.concatenate([first, second], axis=-1), mx.concatenate([first_weight, second_weight], axis=-1)

    def _best(self, left: mx.array, scores: mx.array) -> tuple[mx.array, mx.array]:
        """Return the best of those that are left, `[L, 1]`, and its share of the softmax over those close to it."""
        chosen = mx.argmax(left, axis=-1, keepdims=True)
        best = mx.take_along_axis(left, chosen, axis=-1)
        is_far = (best - scores) / mx.maximum(mx.abs(scores), best) > 2 * self._jitter
        shares = mx.softmax(mx.where(is_far, -mx.inf, left), axis=-1)
        return chosen, mx.take_along_axis(shares, chosen, axis=-1)

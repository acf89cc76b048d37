"""TopKRouter: chooses the experts of each position with the best scores, and their weights.

Sources: DeepSeek-V3, arXiv 2412.19437, section 2.1.2; transformers' routers for the numbers.
Shapes: L positions, D hidden_size, E experts, K chosen for each position.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_moe.config import MoEConfig
from mlx_moe.layers.weights import Linear


class TopKRouter:
    """Chooses K of E experts by softmax, or by sigmoid with a bias that affects the choice but not the weights."""

    def __init__(self, config: MoEConfig, gate: Linear, correction_bias: mx.array | None = None) -> None:
        self._config = config
        self._gate = gate
        self._bias = correction_bias

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Route x `[L, D]`; return indices `[L, K]` and weights `[L, K]` float32."""
        c = self._config
        router_logits = self._gate(x.astype(mx.float32))  # [L, E]
        scores = mx.sigmoid(router_logits) if c.scoring_func == "sigmoid" else mx.softmax(router_logits, axis=-1)
        choice = scores if self._bias is None else scores + self._bias
        if c.n_group > c.topk_group:
            choice = self._limit_groups(choice)
        k = c.num_experts_per_tok
        # ascending, so that NaN counts as the largest and is chosen: it must be reported, not ignored
        indices = mx.argpartition(choice, kth=c.n_routed_experts - k, axis=-1)[:, -k:]
        weights = mx.take_along_axis(scores, indices, axis=-1)
        if c.norm_topk_prob:
            weights = weights / (weights.sum(axis=-1, keepdims=True) + 1e-20)
        if c.routed_scaling_factor != 1.0:
            weights = weights * c.routed_scaling_factor
        return indices, weights

    def _limit_groups(self, choice: mx.array) -> mx.array:
        """Mask the experts of all groups but the best `topk_group`, by the sum of a group's best scores. `[L, E]`.

        The mask is -inf. With 0, as in some implementations, a masked group wins if a bias makes scores negative.
        """
        c = self._config
        groups = choice.reshape(-1, c.n_group, c.n_routed_experts // c.n_group)
        best = mx.topk(groups, min(c.scores_of_group, groups.shape[-1]), axis=-1)
        group_scores = best.sum(axis=-1)  # [L, n_group]
        n_left_out = c.n_group - c.topk_group
        left_out = mx.argpartition(group_scores, kth=n_left_out - 1, axis=-1)[:, :n_left_out]
        masked = mx.put_along_axis(groups, left_out[:, :, None], mx.array(-mx.inf), axis=1)
        return masked.reshape(choice.shape)

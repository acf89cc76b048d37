"""Indexer: chooses the kept positions that each query attends to, by scores of its own small heads.

Source: DeepSeek-V3.2-Exp, arXiv 2512.02556, section 2.1; transformers' `deepseek_v32` for the numbers. Shapes: L
queries, S kept positions, D hidden_size, H index_n_heads, W index_head_dim, R q_lora_rank.
"""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx

from mlx_moe.config import IndexerConfig
from mlx_moe.layers.masking import blocks_of_queries, causal_mask
from mlx_moe.layers.rope import Rope
from mlx_moe.layers.weights import LoadedParameters
from mlx_moe.rope_config import RopeConfig

KEY_NORM_EPS = 1e-6


class Indexer:
    """Chooses `index_topk` positions for each query; all of them while there are no more."""

    def __init__(self, config: IndexerConfig, rope: RopeConfig, parameters: LoadedParameters) -> None:
        self._config = config
        self._rope = Rope(replace(rope, interleaved=config.interleaved))
        self._query_proj = parameters.linear("wq_b")
        self._key_proj = parameters.linear("wk")
        self._key_norm = parameters.vector("k_norm.weight"), parameters.vector("k_norm.bias")
        self._weights_proj = parameters.linear("weights_proj")

    def keys(self, x: mx.array, first_position: int) -> mx.array:
        """Return the keys `[L, W]` of x `[L, D]`, to be kept."""
        keys = mx.fast.layer_norm(self._key_proj(x), *self._key_norm, KEY_NORM_EPS)
        return self._rope(keys[None], first_position)[0]

    def select(self, x: mx.array, q_latent: mx.array, keys: mx.array) -> mx.array | None:
        """Return which of the kept positions each query attends to, `[L, S]`; None: all up to its own.

        x `[L, D]` and q_latent `[L, R]` are of the last L of the positions that have `keys` `[S, W]`.
        """
        c, n_queries, n_kept = self._config, x.shape[0], keys.shape[0]
        if n_kept <= c.topk:
            return None
        queries = self._query_proj(q_latent).reshape(n_queries, c.n_heads, -1).transpose(1, 0, 2)
        queries = self._rope(queries, n_kept - n_queries).astype(mx.float32)  # [H, L, W]
        weights = self._weights_proj(x).astype(mx.float32) * (c.n_heads * c.head_dim) ** -0.5  # [L, H]
        transposed = keys.astype(mx.float32).T
        visible = causal_mask(n_queries, n_kept, mx.float32)
        selected = []
        for block in blocks_of_queries(n_queries, c.n_heads * n_kept * mx.float32.size):
            rows = slice(block.start, block.stop)
            scores = mx.maximum(queries[:, rows] @ transposed, 0.0)  # [H, l, S]
            total = (weights[rows, None] @ scores.transpose(1, 0, 2))[:, 0]  # [l, S]
            selected.append(largest(total + visible[rows], c.topk))
        return mx.concatenate(selected)


def largest(scores: mx.array, count: int) -> mx.array:
    """Return which scores of each row are its `count` largest; of equal ones the first. `[L, S]`.

    Scores are often equal: every position whose products are all negative has the score 0.
    """
    least = mx.topk(scores, count, axis=-1).min(axis=-1, keepdims=True)
    above, equal = scores > least, scores == least
    lacking = count - above.sum(axis=-1, keepdims=True)
    return above | (equal & (mx.cumsum(equal.astype(mx.int32), axis=-1) <= lacking))


def positions(selected: mx.array, count: int) -> mx.array:
    """Return the `count` positions `[count]` that are selected in a row `[S]`, ascending."""
    n_kept = selected.shape[0]
    return mx.sort(mx.where(selected, mx.arange(n_kept), n_kept - 1))[:count]

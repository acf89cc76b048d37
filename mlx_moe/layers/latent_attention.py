"""LatentAttention: MLA over a cache of compressed latents.

Source: DeepSeek-V2, arXiv 2405.04434, section 2.1 and appendix C; transformers' `deepseek_v3` for the numbers.
Shapes: L new positions, S kept positions, D hidden_size, H heads, R kv_lora_rank, N qk_nope_head_dim,
P qk_rope_head_dim, V v_head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_moe.config import MLAConfig
from mlx_moe.layers.indexer import Indexer, positions
from mlx_moe.layers.kv_cache import KVCache
from mlx_moe.layers.masking import blocks_of_queries, causal_mask
from mlx_moe.layers.rope import Rope
from mlx_moe.layers.weights import LoadedParameters
from mlx_moe.rope_config import RopeConfig, yarn_mscale

LATENT_NORM_EPS = 1e-6
"""Epsilon of the norms inside MLA, which do not use rms_norm_eps (as in transformers)."""


@dataclass(frozen=True, slots=True)
class _Projected:
    """What x `[L, D]` is mapped to: q_nope `[H, L, N]`, q_pe `[H, L, P]`, latent `[L, R]`, k_pe `[L, P]`."""

    x: mx.array
    queries: mx.array
    q_latent: mx.array
    q_nope: mx.array
    q_pe: mx.array
    latent: mx.array
    k_pe: mx.array

    def row(self, i: int) -> _Projected:
        """Return the same of one row, if all rows are queries."""
        row = slice(i, i + 1)
        q_nope, q_pe = self.q_nope[:, row], self.q_pe[:, row]
        return _Projected(
            self.x[row], self.queries[row], self.q_latent[row], q_nope, q_pe, self.latent[row], self.k_pe[row]
        )


class LatentAttention:
    """Attention whose cache has R + P numbers per position, for all heads together."""

    def __init__(self, config: MLAConfig, rope: RopeConfig, parameters: LoadedParameters) -> None:
        self._config = config
        self._rope = Rope(rope)
        self._scale = (config.qk_nope_head_dim + config.qk_rope_head_dim) ** -0.5
        if rope.rope_type != "default" and rope.mscale_all_dim:
            self._scale *= yarn_mscale(rope.factor, rope.mscale_all_dim) ** 2
        if config.q_lora_rank is None:
            self._q_proj = parameters.linear("q_proj")
        else:
            self._q_a_proj = parameters.linear("q_a_proj")
            self._q_a_norm = parameters.vector("q_a_layernorm.weight")
            self._q_b_proj = parameters.linear("q_b_proj")
        self._kv_a_proj = parameters.linear("kv_a_proj_with_mqa")
        self._kv_a_norm = parameters.vector("kv_a_layernorm.weight")
        self._key_up = parameters.head_projection("key_up_proj")
        self._value_up = parameters.head_projection("value_up_proj")
        self._o_proj = parameters.linear("o_proj")
        self._indexer = None
        if config.indexer is not None:
            self._indexer = Indexer(config.indexer, rope, parameters.scope("indexer"))
        self._absorb_up_to = absorb_up_to(config)

    def new_cache(self) -> KVCache:
        """See Attention."""
        return KVCache()

    def __call__(self, x: mx.array, cache: KVCache, outputs: int) -> mx.array:
        """See Attention."""
        new = self._project(x, outputs)
        if outputs <= self._absorb_up_to:
            heads = self._value_up.apply(self._read(self._absorbed(new.q_nope), *self._keep(new, cache)))
        else:
            heads = self._expanded(new.q_nope, *self._keep(new, cache))
        return self._output(heads)

    def together(self, x: mx.array, caches: Sequence[KVCache]) -> mx.array:
        """See Attention. The indexer's projections run for each row."""
        new = self._project(x, len(caches))
        absorbed = self._absorbed(new.q_nope)
        read = [self._read(absorbed[:, i : i + 1], *self._keep(new.row(i), cache)) for i, cache in enumerate(caches)]
        return self._output(self._value_up.apply(mx.concatenate(read, axis=1)))

    def _project(self, x: mx.array, outputs: int) -> _Projected:
        """Map x `[L, D]` to what is kept of it, and to queries of its last `outputs` rows."""
        c = self._config
        queries = x if outputs == x.shape[0] else x[-outputs:]
        q_latent, q = self._queries(queries)
        q = q.reshape(outputs, c.num_attention_heads, -1).transpose(1, 0, 2)
        q_nope, q_pe = mx.split(q, [c.qk_nope_head_dim], axis=-1)
        latent, k_pe = mx.split(self._kv_a_proj(x), [c.kv_lora_rank], axis=-1)
        latent = mx.fast.rms_norm(latent, self._kv_a_norm, LATENT_NORM_EPS)
        return _Projected(x, queries, q_latent, q_nope, q_pe, latent, k_pe)

    def _keep(self, new: _Projected, cache: KVCache) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        """Append positions of one sequence to its cache.

        Returns:
            The rotated q_pe `[H, outputs, P]`; of the kept positions that queries may attend to latent `[S, R]` and
            k_pe `[S, P]`; and which of them each does `[outputs, S]`, None: all up to its own.
        """
        n_new, outputs, first_position = new.x.shape[0], new.queries.shape[0], cache.length
        q_pe = self._rope(new.q_pe, first_position + n_new - outputs)
        k_pe = self._rope(new.k_pe[None], first_position)[0]
        if self._indexer is None or self._config.indexer is None:
            latent, k_pe = cache.append(new.latent, k_pe)
            return q_pe, latent, k_pe, None
        latent, k_pe, index_keys = cache.append(new.latent, k_pe, self._indexer.keys(new.x, first_position))
        selected = self._indexer.select(new.queries, new.q_latent, index_keys)
        if selected is not None and outputs == 1:
            chosen = positions(selected[0], self._config.indexer.topk)
            latent, k_pe, selected = latent[chosen], k_pe[chosen], None
        return q_pe, latent, k_pe, selected

    def _output(self, heads: mx.array) -> mx.array:
        """Map heads `[H, L, V]` to `[L, D]`."""
        return self._o_proj(heads.transpose(1, 0, 2).reshape(heads.shape[1], -1))

    def _queries(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Return the latents of the queries (x itself if there are none), and the queries."""
        if self._config.q_lora_rank is None:
            return x, self._q_proj(x)
        latent = mx.fast.rms_norm(self._q_a_proj(x), self._q_a_norm, LATENT_NORM_EPS)
        return latent, self._q_b_proj(latent)

    def _absorbed(self, q_nope: mx.array) -> mx.array:
        """Map queries `[H, L, N]` to latents `[H, L, R]`, to attend without expanding the cache."""
        absorbed: mx.array = self._key_up.apply_transposed(q_nope) * self._scale
        return absorbed

    def _read(
        self, absorbed: mx.array, q_pe: mx.array, latent: mx.array, k_pe: mx.array, selected: mx.array | None
    ) -> mx.array:
        """Attend with absorbed queries: reads the cache unchanged, once for all heads. Returns latents `[H, L, R]`."""
        n_heads, n_queries, _ = absorbed.shape
        scores = _flat(absorbed) @ latent.T + _flat(q_pe * self._scale) @ k_pe.T  # [H*L, S]
        if n_queries > 1:
            scores = scores.reshape(n_heads, n_queries, -1)
            mask = causal_mask(n_queries, latent.shape[0], scores.dtype)
            if selected is not None:
                mask = mx.where(selected, mask, -mx.inf)
            scores = (scores + mask).reshape(n_heads * n_queries, -1)
        out = mx.softmax(scores, axis=-1, precise=True) @ latent  # [H*L, R]
        return out.reshape(n_heads, n_queries, -1)

    def _expanded(
        self, q_nope: mx.array, q_pe: mx.array, latent: mx.array, k_pe: mx.array, selected: mx.array | None
    ) -> mx.array:
        """Attend after expanding the latents to every head's keys and values: fewer operations for many queries.

        Returns `[H, L, V]`.
        """
        keys = self._key_up.apply(latent[None])  # [H, S, N]
        values = self._value_up.apply(latent[None])  # [H, S, V]
        n_heads, n_queries, _ = q_nope.shape
        n_kept = latent.shape[0]
        blocks = []
        for block in blocks_of_queries(n_queries, n_heads * n_kept * latent.dtype.size):
            end = n_kept - n_queries + block.stop
            pe_scores = _flat(q_pe[:, block.start : block.stop] * self._scale) @ k_pe[:end].T
            mask = causal_mask(len(block), end, pe_scores.dtype)
            if selected is not None:
                mask = mx.where(selected[block.start : block.stop, :end], mask, -mx.inf)
            heads = mx.fast.scaled_dot_product_attention(
                q_nope[None, :, block.start : block.stop],
                keys[None, :, :end],
                values[None, :, :end],
                scale=self._scale,
                mask=pe_scores.reshape(1, n_heads, len(block), end) + mask,
            )
            blocks.append(heads[0])
        return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=1)


def absorb_up_to(config: MLAConfig) -> int:
    """Return the number of query positions up to which the absorbed form needs fewer multiplications, at least 1.

    Absorbed costs 2R + P for each query, kept position and head; expanded N + P + V, and R (N + V) for each kept
    position and head.
    """
    rank, expanded = config.kv_lora_rank, config.qk_nope_head_dim + config.v_head_dim
    if 2 * rank <= expanded:
        return 1 << 30
    return max(1, rank * expanded // (2 * rank - expanded))


def _flat(x: mx.array) -> mx.array:
    """Merge heads and queries, `[H, L, W]` to `[H*L, W]`: one matrix product for all heads."""
    return x.reshape(-1, x.shape[-1])

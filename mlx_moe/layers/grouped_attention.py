"""GroupedQueryAttention: attention in which several query heads share a key-value head.

Sources: arXiv 2305.13245; for windows and sinks the gpt-oss model card, arXiv 2508.10925, section 2.3.
Shapes: L new positions, S kept positions, D hidden_size, H query heads, G key-value heads, W head_dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_moe.config import GQAConfig
from mlx_moe.layers.kv_cache import KVCache
from mlx_moe.layers.masking import blocks_of_queries, window_mask
from mlx_moe.layers.norm import rms_norm
from mlx_moe.layers.rope import Rope
from mlx_moe.layers.weights import LoadedParameters
from mlx_moe.layers.window_cache import WindowCache
from mlx_moe.rope_config import RopeConfig

WINDOW_BLOCK = 512
"""Queries of a window that are computed at a time: more would mostly compute scores that the mask drops."""


class GroupedQueryAttention:
    """Attention whose cache has the keys and values of each key-value head.

    With a `window` a position sees only so many positions, up to its own. Without `rope` nothing is rotated. A sink is
    a learned score of each head that takes part in the softmax and has no value.
    """

    def __init__(
        self,
        config: GQAConfig,
        rope: RopeConfig | None,
        norm_eps: float,
        parameters: LoadedParameters,
        window: int | None = None,
    ) -> None:
        self._config = config
        self._window = window
        self._rope = None if rope is None else Rope(rope)
        self._scale = config.head_dim**-0.5 if config.scale is None else config.scale
        self._norm_eps = norm_eps
        self._q_proj = parameters.linear("q_proj")
        self._k_proj = parameters.linear("k_proj")
        self._v_proj = parameters.linear("v_proj")
        self._o_proj = parameters.linear("o_proj")
        if config.qk_norm:
            self._q_norm = parameters.vector("q_norm.weight")
            self._k_norm = parameters.vector("k_norm.weight")
        self._sinks = parameters.vector("sinks") if config.sinks else None

    def new_cache(self) -> KVCache | WindowCache:
        """See Attention."""
        return KVCache() if self._window is None else WindowCache(self._window)

    def __call__(self, x: mx.array, cache: KVCache | WindowCache, outputs: int) -> mx.array:
        """See Attention."""
        q, k, v, gate = self._project(x, outputs)
        return self._output(self._heads(q, k, v, cache), gate)

    def together(self, x: mx.array, caches: Sequence[KVCache | WindowCache]) -> mx.array:
        """See Attention."""
        q, k, v, gate = self._project(x, len(caches))
        rows = (slice(i, i + 1) for i in range(len(caches)))
        heads = [self._heads(q[row], k[row], v[row], cache) for row, cache in zip(rows, caches, strict=True)]
        return self._output(mx.concatenate(heads), gate)

    def _project(self, x: mx.array, outputs: int) -> tuple[mx.array, mx.array, mx.array, mx.array | None]:
        """Return queries `[outputs, H, W]`, keys and values `[L, G, W]`, and the gate of the output, if any."""
        c = self._config
        n_new = x.shape[0]
        queries = x if outputs == n_new else x[-outputs:]
        q, k, v = self._q_proj(queries), self._k_proj(x), self._v_proj(x)
        if c.qk_norm and c.norm_all_heads:
            q, k = self._normed(q, k)
        if c.clip_qkv is not None:
            q, k, v = (mx.clip(a, -c.clip_qkv, c.clip_qkv) for a in (q, k, v))
        q = q.reshape(outputs, c.num_attention_heads, -1)
        q, gate = mx.split(q, 2, axis=-1) if c.output_gate else (q, None)
        k, v = (a.reshape(n_new, c.num_key_value_heads, -1) for a in (k, v))
        if c.qk_norm and not c.norm_all_heads:
            q, k = self._normed(q, k)
        return q, k, v, gate

    def _heads(self, q: mx.array, k: mx.array, v: mx.array, cache: KVCache | WindowCache) -> mx.array:
        """Append keys and values of one sequence to its cache, and attend. Returns `[outputs, H, W]`."""
        outputs, n_new, first_position = q.shape[0], k.shape[0], cache.length
        q, k = q.transpose(1, 0, 2), k.transpose(1, 0, 2)  # [H, outputs, W], [G, L, W]
        q, k = self._positioned(q, k, first_position + n_new - outputs, first_position)
        keys, values = cache.append(k, v.transpose(1, 0, 2))  # [G, S, W]
        return self._attend(q, keys, values).transpose(1, 0, 2)

    def _output(self, heads: mx.array, gate: mx.array | None) -> mx.array:
        """Map heads `[L, H, W]` to `[L, D]`."""
        if gate is not None:
            heads = heads * mx.sigmoid(gate)
        return self._o_proj(heads.reshape(heads.shape[0], -1))

    def _normed(self, q: mx.array, k: mx.array) -> tuple[mx.array, mx.array]:
        return rms_norm(q, self._q_norm, self._norm_eps), rms_norm(k, self._k_norm, self._norm_eps)

    def _positioned(self, q: mx.array, k: mx.array, first_query: int, first_position: int) -> tuple[mx.array, mx.array]:
        """Tell queries `[H, outputs, W]` and keys `[G, L, W]` their positions."""
        return (q, k) if self._rope is None else (self._rope(q, first_query), self._rope(k, first_position))

    def _attend(self, q: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        n_heads, n_queries, _ = q.shape
        n_kept, window = keys.shape[1], self._window
        longest = n_queries if window is None else WINDOW_BLOCK
        blocks = []
        for block in blocks_of_queries(n_queries, n_heads * n_kept * q.dtype.size, longest):
            end = n_kept - n_queries + block.stop
            start = 0 if window is None else max(0, end - len(block) - window + 1)
            heads = mx.fast.scaled_dot_product_attention(
                q[None, :, block.start : block.stop],
                keys[None, :, start:end],
                values[None, :, start:end],
                scale=self._scale,
                mask=self._mask(len(block), end - start),
                sinks=self._sinks,
            )
            blocks.append(heads[0])
        return blocks[0] if len(blocks) == 1 else mx.concatenate(blocks, axis=1)

    def _mask(self, n_queries: int, n_keys: int) -> mx.array | str | None:
        """Return the mask for queries of which the last one is at the last key's position."""
        if n_queries == 1:
            return None
        if self._window is None or n_keys <= self._window:
            return "causal"
        return window_mask(n_queries, n_keys, self._window)

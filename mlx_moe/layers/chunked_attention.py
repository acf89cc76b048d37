"""ChunkedAttention: grouped-query attention within chunks of positions, as in Llama 4.

Source: transformers' `llama4`. Shapes: L new positions, S kept positions, H query heads, G key-value heads, W head_dim.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_moe.config import ChunkedConfig, GQAConfig
from mlx_moe.layers.grouped_attention import GroupedQueryAttention
from mlx_moe.layers.weights import LoadedParameters
from mlx_moe.rope_config import RopeConfig


class ChunkedAttention(GroupedQueryAttention):
    """Attention that is rotated, normed after that, and sees its own chunk; or, without `rope`, sees all positions.

    In the latter, queries far from the beginning are larger: attention would become flat.
    """

    def __init__(
        self,
        config: GQAConfig,
        chunks: ChunkedConfig,
        rope: RopeConfig | None,
        norm_eps: float,
        parameters: LoadedParameters,
    ) -> None:
        super().__init__(config, rope, norm_eps, parameters)
        self._chunks = chunks

    def _positioned(self, q: mx.array, k: mx.array, first_query: int, first_position: int) -> tuple[mx.array, mx.array]:
        c = self._chunks
        if self._rope is not None:
            q, k = super()._positioned(q, k, first_query, first_position)
            norm_eps = self._norm_eps
            return (mx.fast.rms_norm(q, None, norm_eps), mx.fast.rms_norm(k, None, norm_eps)) if c.l2_norm else (q, k)
        if c.floor_scale is not None:
            positions = mx.arange(first_query, first_query + q.shape[1], dtype=mx.float32)[:, None]
            scales = mx.log1p(mx.floor((positions + 1) / c.floor_scale)) * c.attn_scale + 1
            q = (q * scales).astype(q.dtype)
        return q, k

    def _attend(self, q: mx.array, keys: mx.array, values: mx.array) -> mx.array:
        size = self._chunks.chunk_size
        if self._rope is None or size is None:
            return super()._attend(q, keys, values)
        end = keys.shape[1]
        first = start = end - q.shape[1]
        parts = []
        while start < end:
            begin = start // size * size
            stop = min(begin + size, end)
            queries = q[:, start - first : stop - first]
            parts.append(super()._attend(queries, keys[:, begin:stop], values[:, begin:stop]))
            start = stop
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)

"""Causal masks, and the blocks of queries that keep attention scores within bounds."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

MAX_SCORE_BYTES = 512 << 20
"""Attention scores of one layer are made for as many queries at a time as stay under this."""


def causal_mask(n_queries: int, n_keys: int, dtype: mx.Dtype) -> mx.array:
    """Return `[n_queries, n_keys]`: 0 where a query may look, -inf at keys after it; the last query is the last key."""
    queries = mx.arange(n_keys - n_queries, n_keys)[:, None]
    return mx.where(mx.arange(n_keys)[None] <= queries, 0.0, -mx.inf).astype(dtype)


def blocks_of_queries(n_queries: int, score_bytes_per_query: int) -> Iterator[range]:
    """Yield ranges that cover the queries, each with scores of at most MAX_SCORE_BYTES."""
    size = max(1, MAX_SCORE_BYTES // score_bytes_per_query)
    for start in range(0, n_queries, size):
        yield range(start, min(start + size, n_queries))

"""Masking: causal masks, and blocks of queries that limit the memory of attention scores."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx

MAX_SCORE_BYTES = 512 << 20
"""Limit for the attention scores that one layer computes at a time."""


def causal_mask(n_queries: int, n_keys: int, dtype: mx.Dtype) -> mx.array:
    """Return `[n_queries, n_keys]`: 0 for visible keys, -inf for later ones. The last query is at the last key."""
    queries = mx.arange(n_keys - n_queries, n_keys)[:, None]
    return mx.where(mx.arange(n_keys)[None] <= queries, 0.0, -mx.inf).astype(dtype)


def blocks_of_queries(n_queries: int, score_bytes_per_query: int) -> Iterator[range]:
    """Yield ranges that cover the queries, each with scores of at most MAX_SCORE_BYTES."""
    size = max(1, MAX_SCORE_BYTES // score_bytes_per_query)
    for start in range(0, n_queries, size):
        yield range(start, min(start + size, n_queries))

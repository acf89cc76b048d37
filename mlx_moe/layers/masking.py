"""Masking: causal masks and windows, and blocks of queries that limit the memory of attention scores."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import mlx.core as mx

MAX_SCORE_BYTES = 512 << 20
"""Limit for the attention scores that one layer computes at a time."""


def causal_mask(n_queries: int, n_keys: int, dtype: mx.Dtype) -> mx.array:
    """Return `[n_queries, n_keys]`: 0 for visible keys, -inf for later ones. The last query is at the last key."""
    queries = mx.arange(n_keys - n_queries, n_keys)[:, None]
    return mx.where(mx.arange(n_keys)[None] <= queries, 0.0, -mx.inf).astype(dtype)


def window_mask(n_queries: int, n_keys: int, window: int) -> mx.array:
    """Return `[n_queries, n_keys]`: whether a key is one of the `window` up to the query's own position.

    The last query is at the last key.
    """
    distances = mx.arange(n_keys - n_queries, n_keys)[:, None] - mx.arange(n_keys)[None]
    return (distances >= 0) & (distances < window)


def blocks_of_queries(n_queries: int, score_bytes_per_query: int, longest: int = sys.maxsize) -> Iterator[range]:
    """Yield ranges that cover the queries, each of at most `longest` and with scores of at most MAX_SCORE_BYTES."""
    size = min(longest, max(1, MAX_SCORE_BYTES // score_bytes_per_query))
    for start in range(0, n_queries, size):
        yield range(start, min(start + size, n_queries))

"""Context growth: what a token takes with more and more positions before it.

The KV caches are filled with random numbers to the wanted length: the shapes are those that a prompt of this length
leaves, without the hours that it would take a CPU.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import mlx.core as mx

from mlx_moe.config import GQAConfig, MLAConfig
from mlx_moe.layers.kv_cache import KVCache
from mlx_moe.model import LocalModel

STEPS = 24
WARM_STEPS = 2


@dataclass(frozen=True, slots=True)
class Grown:
    """Seconds of a token, layers and head, with so many positions kept in so many bytes."""

    positions: int
    token_s: float
    kv_bytes: int


def grown(model: LocalModel, positions: int) -> Grown:
    """Measure tokens after so many positions."""
    shard = model.stage.shard
    caches = [_filled(model.config.attention, positions, shard.dtype) for _ in shard.layers]
    seconds = []
    for _ in range(STEPS):
        hidden_states = mx.random.normal((1, model.config.hidden_size)).astype(shard.dtype)
        mx.eval(hidden_states)
        started = time.perf_counter()
        for index, layer, cache in zip(shard.spec.layers, shard.layers, caches, strict=True):
            hidden_states = layer(hidden_states, cache, index)
        mx.eval(model.head.logits(hidden_states))
        seconds.append(time.perf_counter() - started)
    kv_bytes = model.config.attention.kv_width * shard.dtype.size * positions * len(caches)
    return Grown(positions, statistics.median(seconds[WARM_STEPS:]), kv_bytes)


def _filled(attention: MLAConfig | GQAConfig, positions: int, dtype: mx.Dtype) -> KVCache:
    """Return the cache of a layer with so many positions."""
    if isinstance(attention, MLAConfig):
        shapes: list[tuple[int, ...]] = [(positions, attention.kv_lora_rank), (positions, attention.qk_rope_head_dim)]
    else:
        shapes = [(attention.num_key_value_heads, positions, attention.head_dim)] * 2
    cache = KVCache()
    cache.append(*(mx.random.normal(shape).astype(dtype) for shape in shapes))
    mx.eval(cache.arrays)
    return cache

"""Context growth: the time of a token by the number of positions before it.

The KV caches are filled with random numbers in the shapes of a real prompt, which would take hours on a CPU.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import mlx.core as mx

from mlx_moe import families
from mlx_moe.layers.decoder import DecoderLayer
from mlx_moe.layers.kv_cache import KVCache
from mlx_moe.model import LocalModel

STEPS = 24
WARM_STEPS = 2


@dataclass(frozen=True, slots=True)
class Grown:
    """Time of a token (layers and lm_head) after `positions` cached positions of `kv_bytes`."""

    positions: int
    token_s: float
    kv_bytes: int


def grown(model: LocalModel, positions: int) -> Grown:
    """Measure tokens after `positions` positions."""
    shard = model.stage.shard
    first = mx.random.normal((1, model.config.hidden_size)).astype(shard.dtype)
    caches = [_filled(layer, first, positions) for layer in shard.layers]
    seconds = []
    for _ in range(STEPS):
        hidden_states = mx.random.normal((1, model.config.hidden_size)).astype(shard.dtype)
        mx.eval(hidden_states)
        started = time.perf_counter()
        for layer, cache in zip(shard.layers, caches, strict=True):
            hidden_states = layer(hidden_states, cache)
        mx.eval(model.head.logits(hidden_states))
        seconds.append(time.perf_counter() - started)
    costs = families.cache_costs(model.config, shard.dtype.size)
    return Grown(positions, statistics.median(seconds[WARM_STEPS:]), costs.nbytes(positions))


def _filled(layer: DecoderLayer, first: mx.array, positions: int) -> KVCache:
    """Return a layer's cache of `positions` positions, in the shape that its first position gets."""
    cache = KVCache()
    layer(first, cache)
    shapes = [(*array.shape[:-2], positions, array.shape[-1]) for array in cache.arrays]
    cache.rewind(0)
    cache.append(*(mx.random.normal(shape).astype(first.dtype) for shape in shapes))
    mx.eval(cache.arrays)
    return cache

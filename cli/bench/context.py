"""Context growth: what a token takes with more and more positions before it.

The KV caches are filled with random numbers to the wanted length: the shapes are those that a prompt of this length
leaves, without the hours that it would take a CPU.
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
    """Seconds of a token, layers and head, with so many positions kept in so many bytes."""

    positions: int
    token_s: float
    kv_bytes: int


def grown(model: LocalModel, positions: int) -> Grown:
    """Measure tokens after so many positions."""
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
    """Return a layer's cache of so many positions, of the shape that running a first one gives it."""
    cache = KVCache()
    layer(first, cache)
    shapes = [(*array.shape[:-2], positions, array.shape[-1]) for array in cache.arrays]
    cache.rewind(0)
    cache.append(*(mx.random.normal(shape).astype(first.dtype) for shape in shapes))
    mx.eval(cache.arrays)
    return cache

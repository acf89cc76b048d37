"""Decode time a token against the context's length: python -m bench.context CHECKPOINT [POSITIONS ...].

The KV caches are filled with random numbers to the wanted length: running so long a prompt on a CPU would take
hours and leave the same shapes.
"""

from __future__ import annotations

import statistics
import sys
import time

import mlx.core as mx

import mlx_moe
from mlx_moe.config import GQAConfig, MLAConfig
from mlx_moe.kv_cache import KVCache
from mlx_moe.model import LocalModel

STEPS = 24


def main(path: str, lengths: list[int]) -> None:
    """Print a row a length: milliseconds a token, KV bytes, and what each further MB of KV costs."""
    model = mlx_moe.load(path)
    base_ms = base_bytes = 0.0
    print(f"{'positions':>10} {'ms/token':>10} {'KV MB':>10} {'ms more per MB more':>20}")
    for length in lengths:
        ms, kv_bytes = _decode_ms(model, length)
        slope = "" if not base_bytes else f"{(ms - base_ms) / (kv_bytes - base_bytes) * 1e6:20.3f}"
        print(f"{length:10} {ms:10.2f} {kv_bytes / 1e6:10.2f} {slope}")
        if not base_bytes:
            base_ms, base_bytes = ms, kv_bytes


def _decode_ms(model: LocalModel, length: int) -> tuple[float, int]:
    shard = model.stage.shard
    caches = [_filled_cache(model.config.attention, length, shard.dtype) for _ in shard.layers]
    times = []
    for _ in range(STEPS):
        hidden_states = mx.random.normal((1, model.config.hidden_size)).astype(shard.dtype)
        mx.eval(hidden_states)
        started = time.perf_counter()
        for index, layer, cache in zip(shard.spec.layers, shard.layers, caches, strict=True):
            hidden_states = layer(hidden_states, cache, index)
        mx.eval(hidden_states)
        times.append(time.perf_counter() - started)
    kept = model.config.attention.kv_width * shard.dtype.size * length * len(caches)
    return statistics.median(times[2:]) * 1e3, kept


def _filled_cache(attention: MLAConfig | GQAConfig, length: int, dtype: mx.Dtype) -> KVCache:
    cache = KVCache()
    if isinstance(attention, MLAConfig):
        shapes: list[tuple[int, ...]] = [(length, attention.kv_lora_rank), (length, attention.qk_rope_head_dim)]
    else:
        shapes = [(attention.num_key_value_heads, length, attention.head_dim)] * 2
    cache.append(*(mx.random.normal(shape).astype(dtype) for shape in shapes))
    mx.eval(cache.buffers)
    return cache


if __name__ == "__main__":
    main(sys.argv[1], [int(argument) for argument in sys.argv[2:]] or [1024, 4096, 16384])

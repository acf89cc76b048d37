"""Rope: rotary position embedding: plain, linearly stretched, YaRN, or as in Llama 3.

Source: RoFormer, arXiv 2104.09864; YaRN, arXiv 2309.00071; transformers' `llama3` rope for the last.
"""

from __future__ import annotations

import math

import mlx.core as mx

from mlx_moe.rope_config import RopeConfig


class Rope:
    """Rotates the first `dims` numbers of each head's query and key by their position, and leaves the others."""

    def __init__(self, config: RopeConfig) -> None:
        self._dims = config.dims
        self._interleaved = config.interleaved
        self._attention_factor = config.attention_factor
        self._periods = _periods(config)

    def __call__(self, x: mx.array, first_position: int) -> mx.array:
        """Rotate x `[H, L, W]`, whose rows are at first_position, first_position + 1, ..."""
        rotated = mx.fast.rope(
            x,
            self._dims,
            traditional=self._interleaved,
            base=None,
            scale=1.0,
            offset=first_position,
            freqs=self._periods,
        )
        if self._attention_factor == 1.0:
            return rotated
        rotated, rest = mx.split(rotated, [self._dims], axis=-1)
        return mx.concatenate([rotated * self._attention_factor, rest], axis=-1)


def _periods(config: RopeConfig) -> mx.array:
    """Return positions per radian of each pair of dims `[dims / 2]`, float32."""
    pairs = [config.rope_theta ** (2 * i / config.dims) for i in range(config.dims // 2)]
    if config.rope_type == "linear":
        pairs = [period * config.factor for period in pairs]
    elif config.rope_type == "yarn":
        pairs = _yarn_periods(config, pairs)
    elif config.rope_type == "llama3":
        pairs = [_llama3_period(config, period) for period in pairs]
    elif config.rope_type == "longrope":
        pairs = [period * factor for period, factor in zip(pairs, config.short_factor, strict=True)]
    return mx.array(pairs, dtype=mx.float32)


def _yarn_periods(config: RopeConfig, periods: list[float]) -> list[float]:
    """Keep the periods of fast pairs, stretch those of slow ones by `factor`, and blend the frequencies in between."""
    low = _pair_of(config.beta_fast, config)
    high = _pair_of(config.beta_slow, config)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, config.dims - 1)
    if low == high:
        high += 0.001
    blended = []
    for i, period in enumerate(periods):
        stretched = min(max((i - low) / (high - low), 0.0), 1.0)
        blended.append(1 / (stretched / (config.factor * period) + (1 - stretched) / period))
    return blended


def _pair_of(rotations: float, config: RopeConfig) -> float:
    """Return the index (fractional) of the pair that rotates `rotations` times over the original context."""
    turns = config.original_max_position_embeddings / (rotations * 2 * math.pi)
    return config.dims * math.log(turns) / (2 * math.log(config.rope_theta))


def _llama3_period(config: RopeConfig, period: float) -> float:
    """Keep a period that has at least `high_freq_factor` rotations in the original context, stretch one with fewer
    than `low_freq_factor`, and blend in between: nothing if both are equal, as in Llama 4 Scout.
    """
    turns = config.original_max_position_embeddings / (2 * math.pi * period)
    low, high = config.low_freq_factor, config.high_freq_factor
    kept = min(max((turns - low) / (high - low), 0.0), 1.0) if low < high else float(turns >= low)
    return 1 / ((1 - kept) / (config.factor * period) + kept / period)

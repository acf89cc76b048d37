"""EmulatedEmbeddingAndLMHead: returns the script's tokens after the time of the emulated lm_head.

Shapes: L positions, D hidden_size, V vocab_size.
"""

from __future__ import annotations

import time

import mlx.core as mx

from cluster.emulation.stage import Clock, positions_of

SURE = 40.0
"""The logit of the token in the script; all others are 0."""


class EmulatedEmbeddingAndLMHead:
    """An EmbeddingAndLMHead whose output is the script."""

    def __init__(
        self, script: tuple[int, ...], vocab_size: int, hidden_size: int, seconds: float, clock: Clock
    ) -> None:
        self._script = script
        self._vocab_size = vocab_size
        self._hidden_size = hidden_size
        self._seconds = seconds
        self._clock = clock

    def embed(self, input_ids: mx.array) -> mx.array:
        """Return hidden states `[L, D]` of zeros."""
        return mx.zeros((input_ids.size, self._hidden_size), dtype=mx.bfloat16)

    def logits(self, hidden_states: mx.array) -> mx.array:
        """Return logits `[L, V]` of the script's tokens after each position."""
        started = time.monotonic()
        token_ids = [self._script[(position + 1) % len(self._script)] for position in positions_of(hidden_states)]
        logits = mx.zeros((len(token_ids), self._vocab_size))
        logits = logits.at[mx.arange(len(token_ids)), mx.array(token_ids)].add(SURE)
        mx.eval(logits)
        self._clock.work(self._seconds, started)
        return logits

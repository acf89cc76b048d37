"""DecoderLayer: attention and feed-forward, each applied after a norm and added to the residual stream."""

from __future__ import annotations

from typing import Any, Protocol

import mlx.core as mx

from mlx_moe.layers.cache import LayerCache
from mlx_moe.layers.norm import rms_norm
from mlx_moe.layers.steps import Steps, finish


class Attention(Protocol):
    """Attention of any kind, with a cache of the previous positions."""

    def new_cache(self) -> LayerCache:
        """Return an empty cache."""

    def __call__(self, x: mx.array, cache: Any, outputs: int) -> mx.array:
        """Append x `[L, D]`, the positions after the kept ones, to a cache made by `new_cache`, and attend.

        Returns:
            The result `[outputs, D]` for the last `outputs` rows of x, each attending to all positions up to its own.
        """


class FeedForward(Protocol):
    """The feed-forward half of a layer: dense, or experts on any nodes."""

    def steps(self, x: mx.array) -> Steps[mx.array]:
        """Map x `[L, D]` to `[L, D]`."""


class DecoderLayer:
    """One layer of the model: attention, then feed-forward."""

    def __init__(
        self,
        input_norm: mx.array,
        post_attention_norm: mx.array,
        norm_eps: float,
        attention: Attention,
        feed_forward: FeedForward,
    ) -> None:
        self._input_norm = input_norm
        self._post_attention_norm = post_attention_norm
        self._norm_eps = norm_eps
        self._attention = attention
        self._feed_forward = feed_forward

    def new_cache(self) -> LayerCache:
        """Return an empty cache for one sequence."""
        return self._attention.new_cache()

    def __call__(self, hidden_states: mx.array, cache: LayerCache, outputs: int | None = None) -> mx.array:
        """Run `steps` to the end."""
        return finish(self.steps(hidden_states, cache, outputs))

    def steps(self, hidden_states: mx.array, cache: LayerCache, outputs: int | None = None) -> Steps[mx.array]:
        """Add hidden_states `[L, D]` to the cache; return the last `outputs` results (None: all), `[outputs, D]`."""
        n_rows = hidden_states.shape[0]
        outputs = n_rows if outputs is None else outputs
        x = rms_norm(hidden_states, self._input_norm, self._norm_eps)
        attended = self._attention(x, cache, outputs)
        hidden_states = (hidden_states if outputs == n_rows else hidden_states[-outputs:]) + attended
        x = rms_norm(hidden_states, self._post_attention_norm, self._norm_eps)
        return hidden_states + (yield from self._feed_forward.steps(x))

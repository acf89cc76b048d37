"""DecoderLayer: attention and feed-forward, each applied after a norm and added to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import mlx.core as mx

from mlx_moe.layers.cache import LayerCache
from mlx_moe.layers.norm import Norm
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

    def together(self, x: mx.array, caches: Sequence[Any]) -> mx.array:
        """Append each row of x `[B, D]` to its own cache, and attend. Returns `[B, D]`, each row as if it were alone.

        There are at most TOGETHER rows.
        """


class FeedForward(Protocol):
    """The feed-forward half of a layer: dense, or experts on any nodes."""

    def steps(self, x: mx.array) -> Steps[mx.array]:
        """Map x `[L, D]` to `[L, D]`."""


class DecoderLayer:
    """One layer of the model: attention, then feed-forward.

    `norms` are those before attention and feed-forward, `output_norms` those after them, if there are any. Results are
    multiplied by `residual_multiplier` before they are added.
    """

    def __init__(
        self,
        norms: Sequence[Norm],
        output_norms: Sequence[Norm],
        attention: Attention,
        feed_forward: FeedForward,
        residual_multiplier: float = 1.0,
    ) -> None:
        self._input_norm, self._post_attention_norm = norms
        self._attention_output_norm, self._feed_forward_output_norm = output_norms or (_unchanged, _unchanged)
        self._attention = attention
        self._feed_forward = feed_forward
        self._residual_multiplier = residual_multiplier

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
        attended = self._attention(self._input_norm(hidden_states), cache, outputs)
        if outputs < n_rows:
            hidden_states = hidden_states[-outputs:]
        return (yield from self._add(hidden_states, attended))

    def together(self, hidden_states: mx.array, caches: Sequence[LayerCache]) -> Steps[mx.array]:
        """Add each row of hidden_states `[B, D]` to its own cache; return `[B, D]`, each row as if it were alone.

        There are at most TOGETHER rows.
        """
        attended = self._attention.together(self._input_norm(hidden_states), caches)
        return (yield from self._add(hidden_states, attended))

    def _add(self, hidden_states: mx.array, attended: mx.array) -> Steps[mx.array]:
        """Add what attention gave, then what the feed-forward gives for the sum."""
        hidden_states = hidden_states + self._scaled(self._attention_output_norm(attended))
        result = yield from self._feed_forward.steps(self._post_attention_norm(hidden_states))
        return hidden_states + self._scaled(self._feed_forward_output_norm(result))

    def _scaled(self, x: mx.array) -> mx.array:
        return x if self._residual_multiplier == 1.0 else x * self._residual_multiplier


def _unchanged(x: mx.array) -> mx.array:
    return x

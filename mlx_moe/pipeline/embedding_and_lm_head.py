"""EmbeddingAndLMHead: the two ends of the model, which the coordinator owns: ids to hidden states, these to logits.

Shapes: L positions, D hidden_size, V vocab_size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_moe.config import ModelConfig
from mlx_moe.layers.norm import rms_norm
from mlx_moe.layers.weights import LoadedParameters, Weight


class EmbeddingAndLMHead(Protocol):
    """The embedding, and the lm_head after the final norm: loaded, or emulated."""

    def embed(self, input_ids: mx.array) -> mx.array:
        """Map input_ids `[L]` to hidden states `[L, D]`."""

    def logits(self, hidden_states: mx.array) -> mx.array:
        """Map hidden_states `[L, D]` after the last layer to logits `[L, V]`."""


@dataclass(frozen=True, slots=True)
class LoadedEmbeddingAndLMHead:
    """The embedding and lm_head in memory; one matrix if the weights are tied."""

    embed_tokens: Weight
    norm: mx.array
    norm_eps: float
    lm_head: Weight
    dtype: mx.Dtype

    @classmethod
    def build(cls, config: ModelConfig, loaded: LoadedParameters, dtype: mx.Dtype) -> LoadedEmbeddingAndLMHead:
        """Return both, built from their loaded parameters."""
        embed_tokens = loaded.weight("model.embed_tokens")
        lm_head = embed_tokens if config.tie_word_embeddings else loaded.weight("lm_head")
        return cls(embed_tokens, loaded.vector("model.norm.weight"), config.rms_norm_eps, lm_head, dtype)

    def embed(self, input_ids: mx.array) -> mx.array:
        """See EmbeddingAndLMHead."""
        return self.embed_tokens.rows(input_ids).astype(self.dtype)

    def normed(self, hidden_states: mx.array) -> mx.array:
        """Apply the final norm to hidden_states `[L, D]` after the last layer."""
        return rms_norm(hidden_states, self.norm, self.norm_eps)

    def logits(self, hidden_states: mx.array) -> mx.array:
        """See EmbeddingAndLMHead."""
        return self.lm_head.matmul(self.normed(hidden_states))

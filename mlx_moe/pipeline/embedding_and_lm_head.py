"""EmbeddingAndLMHead: the two ends of the model, which the coordinator owns: ids to hidden states, these to logits.

Shapes: L positions, D hidden_size, V vocab_size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mlx.core as mx

from mlx_moe.config import EndsConfig, ModelConfig
from mlx_moe.layers.norm import Norm
from mlx_moe.layers.weights import Linear, LoadedParameters, Weight


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
    normed: Norm
    """Applies the final norm to hidden states `[L, D]` after the last layer."""
    lm_head: Linear
    ends: EndsConfig
    dtype: mx.Dtype

    @classmethod
    def build(cls, config: ModelConfig, loaded: LoadedParameters, dtype: mx.Dtype) -> LoadedEmbeddingAndLMHead:
        """Return both, built from their loaded parameters."""
        embed_tokens = loaded.weight("model.embed_tokens")
        lm_head = Linear(embed_tokens) if config.tie_word_embeddings else loaded.linear("lm_head")
        return cls(embed_tokens, loaded.norm("model.norm", config.rms_norm_eps), lm_head, config.ends, dtype)

    def embed(self, input_ids: mx.array) -> mx.array:
        """See EmbeddingAndLMHead."""
        rows = self.embed_tokens.rows(input_ids).astype(self.dtype)
        return rows if self.ends.embedding_multiplier == 1.0 else rows * self.ends.embedding_multiplier

    def logits(self, hidden_states: mx.array) -> mx.array:
        """See EmbeddingAndLMHead."""
        logits = self.lm_head(self.normed(hidden_states))
        return logits if self.ends.logits_scaling == 1.0 else logits / self.ends.logits_scaling

"""MultiTokenPrediction: the layer that drafts the token after the next.

Source: DeepSeek-V3, arXiv 2412.19437, section 2.2; transformers' `MtpLayer` for the places of the norms. The layer's
own copies of the embedding and the lm_head equal the model's, which are used.
Shapes: L positions, D hidden_size, V vocab_size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlx_moe import families
from mlx_moe.config import ModelConfig
from mlx_moe.layers.cache import LayerCache
from mlx_moe.layers.decoder import DecoderLayer
from mlx_moe.layers.experts import NO_PEERS
from mlx_moe.layers.norm import rms_norm
from mlx_moe.layers.weights import Linear, LoadedParameters
from mlx_moe.pipeline.embedding_and_lm_head import LoadedEmbeddingAndLMHead


@dataclass(frozen=True, slots=True)
class MultiTokenPrediction:
    """A decoder layer whose input is a position's hidden state and the token that follows it."""

    head: LoadedEmbeddingAndLMHead
    enorm: mx.array
    hnorm: mx.array
    eh_proj: Linear
    layer: DecoderLayer
    output_norm: mx.array
    norm_eps: float

    @classmethod
    def build(
        cls, config: ModelConfig, loaded: LoadedParameters, head: LoadedEmbeddingAndLMHead
    ) -> MultiTokenPrediction:
        """Return the layer built from its loaded parameters, with the embedding and the lm_head of `head`."""
        index = config.num_hidden_layers
        experts = range(config.moe.n_routed_experts)
        scope = loaded.scope(f"model.layers.{index}")
        return cls(
            head=head,
            enorm=scope.vector("enorm.weight"),
            hnorm=scope.vector("hnorm.weight"),
            eh_proj=scope.linear("eh_proj"),
            layer=families.layer(config, index).build(loaded, experts, partial(NO_PEERS.bind, index)),
            output_norm=scope.vector("shared_head.norm.weight"),
            norm_eps=config.rms_norm_eps,
        )

    def new_cache(self) -> LayerCache:
        """Return an empty cache for one sequence."""
        return self.layer.new_cache()

    def __call__(
        self, hidden_states: mx.array, next_ids: mx.array, cache: LayerCache, outputs: int | None = None
    ) -> tuple[mx.array, mx.array]:
        """Predict the token after each next one.

        Args:
            hidden_states: `[L, D]` of consecutive positions, after the model's final norm (`head.normed`).
            next_ids: `[L]`, the token that follows each position.
            cache: a cache of this layer; its length is the first of the positions.
            outputs: the number of last positions to predict for; None for all.

        Returns:
            Normed hidden states `[outputs, D]`, to chain deeper drafts from, and logits `[outputs, V]`.
        """
        embedded = rms_norm(self.head.embed(next_ids), self.enorm, self.norm_eps)
        previous = rms_norm(hidden_states, self.hnorm, self.norm_eps)
        joined = self.eh_proj(mx.concatenate([embedded, previous], axis=-1))
        hidden_states = self.layer(joined, cache, outputs)
        hidden_states = rms_norm(hidden_states, self.output_norm, self.norm_eps)
        return hidden_states, self.head.lm_head(hidden_states)

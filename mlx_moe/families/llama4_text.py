"""Llama 4, its text part: attention in chunks, every fourth layer not rotated; one expert weights its input.

Source: transformers' `llama4`. Experts are stored as one stack of gates and ups, in MLX's conversions apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.config import ChunkedConfig, GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families import multimodal
from mlx_moe.families.attention import GroupedQueryAttentionSpec
from mlx_moe.families.feed_forward import MLPSpec, MoESpec
from mlx_moe.families.joined_experts import JoinedExpertsSpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec
from mlx_moe.rope_config import read_rope

if TYPE_CHECKING:
    from mlx_moe.layers.chunked_attention import ChunkedAttention
    from mlx_moe.layers.weights import LoadedParameters


@dataclass(frozen=True, slots=True)
class Llama4Config(GroupedQueryModelConfig):
    """The configuration of a Llama 4; `rotated_layers` are the layers with rope, whose attention is in chunks."""

    chunks: ChunkedConfig
    rotated_layers: frozenset[int]
    intermediate_size_mlp: int


def read_config(fields: ConfigFields) -> Llama4Config:
    """Read a `llama4_text` config.json, or the text part of a `llama4`; missing values get transformers' defaults."""
    model_type, fields = fields.word("model_type", default=""), multimodal.text_fields(fields)
    n_layers = fields.dimension("num_hidden_layers")
    attention = GQAConfig.read(
        fields,
        default_kv_heads=8,
        default_head_dim=128,
        qk_norm=False,
        attention_bias=fields.flag("attention_bias", default=False),
    )
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("intermediate_size"),
        n_shared_experts=1,
        scoring_func="sigmoid",
        norm_topk_prob=False,
    )
    if moe.num_experts_per_tok != 1:
        raise fields.unsupported(f"Llama 4 chooses one expert for each token, got {moe.num_experts_per_tok}")
    interval = fields.dimension("no_rope_layer_interval", default=4)
    rotated = fields.dimensions("no_rope_layers") or tuple(int((i + 1) % interval != 0) for i in range(n_layers))
    step = fields.dimension("interleave_moe_layer_step", default=1)
    is_tuned = fields.flag("attn_temperature_tuning", default=True, also_true=4)  # as in conversions by MLX
    return Llama4Config.read(
        fields,
        model_type=model_type,
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=True, default_theta=500_000.0),
        moe=moe,
        moe_layers=frozenset(fields.dimensions("moe_layers") or range(step - 1, n_layers, step)),
        default_norm_eps=1e-5,
        chunks=ChunkedConfig(
            chunk_size=fields.optional("attention_chunk_size", default=8192),
            l2_norm=fields.flag("use_qk_norm", default=True),
            floor_scale=fields.dimension("floor_scale", default=8192) if is_tuned else None,
            attn_scale=fields.number("attn_scale", default=0.1),
        ),
        rotated_layers=frozenset(layer for layer, is_rotated in enumerate(rotated) if is_rotated),
        intermediate_size_mlp=fields.dimension("intermediate_size_mlp", default=16384),
    )


def layer(config: Llama4Config, index: int) -> LayerSpec:
    """See Family."""
    path, size, moe = f"model.layers.{index}", config.hidden_size, config.moe
    rope = config.rope if index in config.rotated_layers else None
    attention = ChunkedAttentionSpec(
        f"{path}.self_attn", size, config.attention, rope, config.rms_norm_eps, chunks=config.chunks
    )
    block = f"{path}.feed_forward"
    feed_forward: MLPSpec | MoESpec = MLPSpec(block, size, config.intermediate_size_mlp)
    if index in config.moe_layers:
        feed_forward = MoESpec(
            TopKRouterSpec(block, size, moe, gate="router"),
            JoinedExpertsSpec(block, size, moe),
            MLPSpec(f"{block}.shared_expert", size, moe.moe_intermediate_size),
            weights_inputs=True,
        )
    return LayerSpec(path, size, config.rms_norm_eps, attention, feed_forward)


def stored(config: Llama4Config, parameter: Parameter) -> Parameter:
    """Return how checkpoints store a parameter: in a `llama4` below the names of the text part."""
    return multimodal.stored(parameter) if config.model_type == "llama4" else parameter


@dataclass(frozen=True, slots=True)
class ChunkedAttentionSpec(GroupedQueryAttentionSpec):
    """Attention in chunks."""

    chunks: ChunkedConfig = field(kw_only=True)

    def build(self, loaded: LoadedParameters) -> ChunkedAttention:
        """See AttentionSpec."""
        from mlx_moe.layers.chunked_attention import ChunkedAttention

        return ChunkedAttention(self.config, self.chunks, self.rope, self.norm_eps, loaded.scope(self.path))

"""Qwen3-MoE: grouped-query attention with normed queries and keys, softmax router, no shared experts.

Source: Qwen3 technical report, arXiv 2505.09388; transformers' `qwen3_moe` for the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_moe.config import GQAConfig, ModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.errors import CheckpointError
from mlx_moe.families.attention import GroupedQueryAttentionSpec
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.rope_config import read_rope


@dataclass(frozen=True, slots=True)
class Qwen3MoeConfig(ModelConfig):
    """The configuration of a `qwen3_moe` model."""

    attention: GQAConfig


def read_config(fields: ConfigFields) -> Qwen3MoeConfig:
    """Read a `qwen3_moe` config.json; missing values get transformers' defaults."""
    if fields.flag("use_sliding_window", default=False):
        raise fields.unsupported("use_sliding_window is not supported for qwen3_moe")
    heads = fields.dimension("num_attention_heads")
    attention = GQAConfig(
        num_attention_heads=heads,
        num_key_value_heads=fields.optional("num_key_value_heads", default=4) or heads,
        head_dim=fields.optional("head_dim") or max(1, fields.dimension("hidden_size") // heads),
        qk_norm=True,
        attention_bias=fields.flag("attention_bias", default=False),
    )
    if heads % attention.num_key_value_heads:
        raise CheckpointError(
            f"config.json: {heads} attention heads cannot share {attention.num_key_value_heads} key-value heads"
        )
    moe = MoEConfig(
        n_routed_experts=fields.dimension("num_experts", "num_local_experts"),
        num_experts_per_tok=fields.dimension("num_experts_per_tok"),
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=0,
        scoring_func="softmax",
        norm_topk_prob=fields.flag("norm_topk_prob", default=False),
    )
    if moe.num_experts_per_tok > moe.n_routed_experts:
        raise CheckpointError(
            f"config.json: {moe.num_experts_per_tok} experts a token of {moe.n_routed_experts} experts"
        )
    dense_layers = fields.dimensions("mlp_only_layers")
    step = fields.dimension("decoder_sparse_step", default=1)
    return Qwen3MoeConfig.read(
        fields,
        model_type="qwen3_moe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False),
        moe=moe,
        moe_layers=frozenset(
            layer
            for layer in range(fields.dimension("num_hidden_layers"))
            if layer not in dense_layers and (layer + 1) % step == 0
        ),
    )


def layer(config: Qwen3MoeConfig, index: int) -> LayerSpec:
    """See Family."""
    path, size, norm_eps = f"model.layers.{index}", config.hidden_size, config.rms_norm_eps
    attention = GroupedQueryAttentionSpec(f"{path}.self_attn", size, config.attention, config.rope, norm_eps)
    return LayerSpec(path, size, norm_eps, attention, default_feed_forward(config, index))

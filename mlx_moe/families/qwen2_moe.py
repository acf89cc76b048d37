"""Qwen1.5-MoE and Qwen2-MoE: grouped-query attention with biases, softmax router, and a gated shared expert.

Source: Qwen2 technical report, arXiv 2407.10671; transformers' `qwen2_moe` for the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_moe.config import GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention, require_full_attention
from mlx_moe.families.feed_forward import GatedExpertsSpec, MLPSpec, MoESpec, SigmoidGatedMLPSpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec, layers_by_step
from mlx_moe.rope_config import read_rope


@dataclass(frozen=True, slots=True)
class Qwen2MoeConfig(GroupedQueryModelConfig):
    """The configuration of a `qwen2_moe` model."""

    shared_expert_intermediate_size: int


def read_config(fields: ConfigFields) -> Qwen2MoeConfig:
    """Read a `qwen2_moe` config.json; missing values get transformers' defaults."""
    require_full_attention(fields)
    attention = GQAConfig.read(
        fields,
        default_kv_heads=16,
        qk_norm=False,
        attention_bias=fields.flag("qkv_bias", default=True),
        output_bias=False,
    )
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=1,
        scoring_func="softmax",
        norm_topk_prob=fields.flag("norm_topk_prob", default=False),
    )
    return Qwen2MoeConfig.read(
        fields,
        model_type="qwen2_moe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False),
        moe=moe,
        moe_layers=layers_by_step(fields),
        shared_expert_intermediate_size=fields.dimension("shared_expert_intermediate_size"),
    )


def layer(config: Qwen2MoeConfig, index: int) -> LayerSpec:
    """See Family."""
    path, feed_forward = f"model.layers.{index}", _feed_forward(config, index)
    attention = grouped_query_attention(config, index)
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, attention, feed_forward)


def _feed_forward(config: Qwen2MoeConfig, index: int) -> MLPSpec | MoESpec:
    path, size, moe = f"model.layers.{index}.mlp", config.hidden_size, config.moe
    if index not in config.moe_layers:
        return MLPSpec(path, size, config.intermediate_size)
    shared = MLPSpec(f"{path}.shared_expert", size, config.shared_expert_intermediate_size)
    return MoESpec(
        TopKRouterSpec(path, size, moe),
        GatedExpertsSpec(path, size, moe),
        SigmoidGatedMLPSpec(shared, f"{path}.shared_expert_gate"),
    )

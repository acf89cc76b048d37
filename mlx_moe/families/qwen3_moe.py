"""Qwen3-MoE: grouped-query attention with normed queries and keys, softmax router, no shared experts.

Source: Qwen3 technical report, arXiv 2505.09388; transformers' `qwen3_moe` for the numbers.
"""

from __future__ import annotations

from mlx_moe.config import GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention, require_full_attention
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import layers_by_step
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> GroupedQueryModelConfig:
    """Read a `qwen3_moe` config.json; missing values get transformers' defaults."""
    require_full_attention(fields)
    attention = GQAConfig.read(
        fields, default_kv_heads=4, qk_norm=True, attention_bias=fields.flag("attention_bias", default=False)
    )
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=0,
        scoring_func="softmax",
        norm_topk_prob=fields.flag("norm_topk_prob", default=False),
    )
    return GroupedQueryModelConfig.read(
        fields,
        model_type="qwen3_moe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False),
        moe=moe,
        moe_layers=layers_by_step(fields),
    )


def layer(config: GroupedQueryModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, feed_forward = f"model.layers.{index}", default_feed_forward(config, index)
    attention = grouped_query_attention(config, index)
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, attention, feed_forward)

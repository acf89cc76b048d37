"""GLM-4: a dense model, half of each head rotated, with norms before and after attention and feed-forward.

Source: transformers' `glm4`.
"""

from __future__ import annotations

from mlx_moe.config import GQAConfig, GroupedQueryModelConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import MLPSpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> GroupedQueryModelConfig:
    """Read a `glm4` config.json; missing values get transformers' defaults."""
    attention = GQAConfig.read(
        fields,
        default_kv_heads=2,
        default_head_dim=128,
        qk_norm=False,
        attention_bias=fields.flag("attention_bias", default=True),
        output_bias=False,
    )
    return GroupedQueryModelConfig.read(
        fields,
        model_type="glm4",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=True, default_share=0.5),
        default_norm_eps=1.5625e-07,
    )


def layer(config: GroupedQueryModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, size = f"model.layers.{index}", config.hidden_size
    return LayerSpec(
        path,
        size,
        config.rms_norm_eps,
        grouped_query_attention(config, index),
        MLPSpec(f"{path}.mlp", size, config.intermediate_size, fused="gate_up_proj"),
        output_norms=("post_self_attn_layernorm", "post_mlp_layernorm"),
    )

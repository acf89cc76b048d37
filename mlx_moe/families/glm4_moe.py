"""GLM-4.5, GLM-4.5-Air, GLM-4.6 and GLM-4.7: grouped-query attention, half of each head rotated, DeepSeek-V3's router.

Source: GLM-4.5, arXiv 2508.06471; transformers' `glm4_moe` for the numbers.
"""

from __future__ import annotations

from mlx_moe.config import GQAConfig, GroupedQueryModelConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import layers_after_dense, read_mtp_layers, sigmoid_experts
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> GroupedQueryModelConfig:
    """Read a `glm4_moe` config.json; missing values get transformers' defaults."""
    attention = GQAConfig.read(
        fields,
        default_kv_heads=8,
        qk_norm=fields.flag("use_qk_norm", default=False),
        attention_bias=fields.flag("attention_bias", default=False),
        output_bias=False,
    )
    return GroupedQueryModelConfig.read(
        fields,
        model_type="glm4_moe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False, default_share=0.5),
        moe=sigmoid_experts(fields),
        moe_layers=layers_after_dense(fields, default=1),
        num_nextn_predict_layers=read_mtp_layers(fields),
        default_norm_eps=1e-5,
    )


def layer(config: GroupedQueryModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, feed_forward = f"model.layers.{index}", default_feed_forward(config, index)
    attention = grouped_query_attention(config, index)
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, attention, feed_forward)

"""GLM-4.7-Flash: DeepSeek-V3's latent attention and router in another size.

Source: transformers' `glm4_moe_lite`.
"""

from __future__ import annotations

from mlx_moe.config import LatentModelConfig, MLAConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import latent_attention
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import layers_by_type, read_mtp_layers, sigmoid_experts
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> LatentModelConfig:
    """Read a `glm4_moe_lite` config.json; missing values get transformers' defaults."""
    attention = MLAConfig.read(fields)
    interleaved = fields.flag("rope_interleave", default=True)
    return LatentModelConfig.read(
        fields,
        model_type="glm4_moe_lite",
        attention=attention,
        rope=read_rope(fields, attention.qk_rope_head_dim, interleaved, default_share=1.0),
        moe=sigmoid_experts(fields, routed_scaling_factor=1.8),
        moe_layers=layers_by_type(fields, default=1),
        num_nextn_predict_layers=read_mtp_layers(fields),
        default_norm_eps=1e-5,
    )


def layer(config: LatentModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, feed_forward = f"model.layers.{index}", default_feed_forward(config, index)
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, latent_attention(config, index), feed_forward)

"""DeepSeek-V3, R1, V3.1 and Kimi-K2: latent attention, sigmoid router with groups, shared experts, MTP.

Source: DeepSeek-V3 technical report, arXiv 2412.19437; transformers' `deepseek_v3` for the numbers.
"""

from __future__ import annotations

from mlx_moe.config import LatentModelConfig, MLAConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import latent_attention
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import layers_after_dense, read_mtp_layers, sigmoid_experts
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> LatentModelConfig:
    """Read a `deepseek_v3` config.json; missing values get transformers' defaults."""
    if fields.word("scoring_func", "sigmoid") != "sigmoid" or fields.word("topk_method", "noaux_tc") != "noaux_tc":
        raise fields.unsupported("deepseek_v3 routes with scoring_func sigmoid and topk_method noaux_tc only")
    attention = MLAConfig.read(fields)
    return LatentModelConfig.read(
        fields,
        model_type="deepseek_v3",
        attention=attention,
        rope=read_rope(fields, attention.qk_rope_head_dim, fields.flag("rope_interleave", default=True)),
        moe=sigmoid_experts(fields, n_group=8, topk_group=4, routed_scaling_factor=2.5),
        moe_layers=layers_after_dense(fields, default=3),
        num_nextn_predict_layers=read_mtp_layers(fields),
    )


def layer(config: LatentModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, feed_forward = f"model.layers.{index}", default_feed_forward(config, index)
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, latent_attention(config, index), feed_forward)

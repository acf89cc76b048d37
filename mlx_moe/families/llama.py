"""Llama, Mistral, Qwen2 and Qwen3: dense models with grouped-query attention, which differ in its biases and norms.

Source: transformers' `llama`, `mistral`, `qwen2` and `qwen3`.
"""

from __future__ import annotations

from mlx_moe.config import GQAConfig, GroupedQueryModelConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention, require_full_attention
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.rope_config import read_rope

MISTRAL_WINDOW = 4096
"""Of a mistral config.json that has no sliding_window at all; null says that there is none."""


def read_config(fields: ConfigFields) -> GroupedQueryModelConfig:
    """Read the config.json of one of these families; missing values get transformers' defaults."""
    model_type = fields.word("model_type", default="")
    if fields.flag("mlp_bias", default=False):
        raise fields.unsupported("mlp_bias is not supported")
    attention = _read_attention(fields, model_type)
    window = fields.optional("sliding_window", default=MISTRAL_WINDOW) if model_type == "mistral" else None
    return GroupedQueryModelConfig.read(
        fields,
        model_type=model_type,
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False),
        sliding_window=window,
    )


def layer(config: GroupedQueryModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, feed_forward = f"model.layers.{index}", default_feed_forward(config, index)
    attention = grouped_query_attention(config, index)
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, attention, feed_forward)


def _read_attention(fields: ConfigFields, model_type: str) -> GQAConfig:
    match model_type:
        case "mistral":
            return GQAConfig.read(fields, default_kv_heads=8, qk_norm=False, attention_bias=False)
        case "qwen2":
            require_full_attention(fields)
            return GQAConfig.read(fields, default_kv_heads=32, qk_norm=False, attention_bias=True, output_bias=False)
    bias = fields.flag("attention_bias", default=False)
    if model_type == "qwen3":
        require_full_attention(fields)
        return GQAConfig.read(fields, default_kv_heads=32, default_head_dim=128, qk_norm=True, attention_bias=bias)
    return GQAConfig.read(fields, qk_norm=False, attention_bias=bias)

"""K-EXAONE: three of four layers see a window, the others are not rotated; DeepSeek-V3's router.

Source: transformers' `exaone_moe`.
"""

from __future__ import annotations

from dataclasses import replace

from mlx_moe.config import GQAConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import layers_by_type, sigmoid_experts
from mlx_moe.families.windows import WindowedModelConfig, read_windows
from mlx_moe.rope_config import read_rope

CORRECTION_BIAS = "e_score_correction_bias"


def read_config(fields: ConfigFields) -> WindowedModelConfig:
    """Read an `exaone_moe` config.json; missing values get transformers' defaults."""
    attention = GQAConfig.read(fields, default_kv_heads=32, qk_norm=True, attention_bias=False)
    return WindowedModelConfig.read(
        fields,
        model_type="exaone_moe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False),
        moe=sigmoid_experts(fields, routed_scaling_factor=2.5),
        moe_layers=layers_by_type(fields, default=1),
        windows=read_windows(fields, _slides(fields), default=4096),
        default_norm_eps=1e-5,
    )


def layer(config: WindowedModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, window = f"model.layers.{index}", config.windows[index]
    attention = grouped_query_attention(config, index, window)
    if window is None:
        attention = replace(attention, rope=None)
    feed_forward = default_feed_forward(config, index, correction_bias=CORRECTION_BIAS)
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, attention, feed_forward)


def _slides(fields: ConfigFields) -> list[bool]:
    """Return which layers have windows: all but each n-th, or those that a repeated pattern of L and G names L."""
    layers = range(fields.dimension("num_hidden_layers"))
    if fields.is_word("sliding_window_pattern"):
        pattern = fields.word("sliding_window_pattern", default="")
        return [pattern[layer % len(pattern)] == "L" for layer in layers]
    every = fields.dimension("sliding_window_pattern", default=4)
    return [(layer + 1) % every != 0 for layer in layers]

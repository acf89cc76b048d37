"""dots.llm1: grouped-query attention with normed queries and keys, DeepSeek-V3's router, dense first layers.

Source: dots.llm1 technical report, arXiv 2506.05767; transformers' `dots1` for the numbers.
"""

from __future__ import annotations

from mlx_moe.config import GQAConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import layers_after_dense, sigmoid_experts
from mlx_moe.families.windows import WindowedModelConfig, read_windows
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> WindowedModelConfig:
    """Read a `dots1` config.json; missing values get transformers' defaults."""
    attention = GQAConfig.read(
        fields, default_kv_heads=32, qk_norm=True, attention_bias=fields.flag("attention_bias", default=False)
    )
    n_layers = fields.dimension("num_hidden_layers")
    first_window = fields.dimension("max_window_layers", default=62, minimum=0)
    return WindowedModelConfig.read(
        fields,
        model_type="dots1",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False),
        moe=sigmoid_experts(fields, n_shared_experts=0, norm_topk_prob=False),
        moe_layers=layers_after_dense(fields, default=0),
        windows=read_windows(fields, [layer >= first_window for layer in range(n_layers)], default=4096),
    )


def layer(config: WindowedModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, feed_forward = f"model.layers.{index}", default_feed_forward(config, index, stacked="experts")
    attention = grouped_query_attention(config, index, config.windows[index])
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, attention, feed_forward)

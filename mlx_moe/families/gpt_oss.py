"""gpt-oss: grouped-query attention with sinks, every other layer a window; experts with biases, clamped.

Source: gpt-oss model card, arXiv 2508.10925; transformers' `gpt_oss` for the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_moe.config import GQAConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import MoESpec
from mlx_moe.families.joined_experts import Clamp, JoinedExpertsSpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec
from mlx_moe.families.windows import WindowedModelConfig, read_windows
from mlx_moe.rope_config import read_rope


@dataclass(frozen=True, slots=True)
class GptOssConfig(WindowedModelConfig):
    """The configuration of a `gpt_oss` model."""

    clamp: Clamp


def read_config(fields: ConfigFields) -> GptOssConfig:
    """Read a `gpt_oss` config.json; missing values get transformers' defaults."""
    attention = GQAConfig.read(
        fields,
        default_kv_heads=8,
        qk_norm=False,
        attention_bias=fields.flag("attention_bias", default=True),
        sinks=True,
    )
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("intermediate_size"),
        n_shared_experts=0,
        scoring_func="softmax",
        norm_topk_prob=True,  # over all experts, then made to sum to 1: the softmax of the chosen ones
    )
    n_layers = fields.dimension("num_hidden_layers")
    return GptOssConfig.read(
        fields,
        model_type="gpt_oss",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False),
        moe=moe,
        moe_layers=frozenset(range(n_layers)),
        default_norm_eps=1e-5,
        windows=read_windows(fields, [layer % 2 == 0 for layer in range(n_layers)], default=128),
        clamp=Clamp(
            alpha=fields.number("swiglu_alpha", default=1.702),
            limit=fields.number("swiglu_limit", default=7.0, above=0),
        ),
    )


def layer(config: GptOssConfig, index: int) -> LayerSpec:
    """See Family."""
    path = f"model.layers.{index}"
    attention = grouped_query_attention(config, index, config.windows[index])
    router = TopKRouterSpec(f"{path}.mlp", config.hidden_size, config.moe, gate="router", gate_bias=True)
    feed_forward = MoESpec(router, JoinedExpertsSpec(f"{path}.mlp", config.hidden_size, config.moe, config.clamp))
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, attention, feed_forward)

"""OLMoE: attention whose queries and keys are normed over all heads together, softmax router, no shared experts.

Source: OLMoE, arXiv 2409.02060; transformers' `olmoe` for the numbers.
"""

from __future__ import annotations

from mlx_moe.config import GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import default_feed_forward
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> GroupedQueryModelConfig:
    """Read an `olmoe` config.json; missing values get transformers' defaults."""
    attention = GQAConfig.read(
        fields,
        qk_norm=True,
        norm_all_heads=True,
        attention_bias=fields.flag("attention_bias", default=False),
        clip_qkv=fields.number("clip_qkv", above=0) if fields.has("clip_qkv") else None,
    )
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("intermediate_size"),
        n_shared_experts=0,
        scoring_func="softmax",
        norm_topk_prob=fields.flag("norm_topk_prob", default=False),
    )
    return GroupedQueryModelConfig.read(
        fields,
        model_type="olmoe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False),
        moe=moe,
        moe_layers=frozenset(range(fields.dimension("num_hidden_layers"))),
        default_norm_eps=1e-5,
    )


def layer(config: GroupedQueryModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, feed_forward = f"model.layers.{index}", default_feed_forward(config, index)
    attention = grouped_query_attention(config, index)
    return LayerSpec(path, config.hidden_size, config.rms_norm_eps, attention, feed_forward)

"""MiniMax-M2: queries and keys normed over all heads together, half of each head rotated, sigmoid router.

Source: transformers' `minimax_m2`. Conversions of mlx-lm call it `minimax`, as MiniMax-Text-01, whose linear attention
is not supported. Published checkpoints have the experts below `block_sparse_moe`, others below `mlp`.
"""

from __future__ import annotations

from mlx_moe.config import GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import GatedExpertsSpec, MoESpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> GroupedQueryModelConfig:
    """Read a `minimax_m2` config.json; missing values get transformers' defaults."""
    if "linear_attention" in fields.words("layer_types") or 0 in fields.dimensions("attn_type_list"):
        raise fields.unsupported("layers with linear attention are not supported (MiniMax-Text-01)")
    attention = GQAConfig.read(
        fields,
        default_kv_heads=8,
        qk_norm=fields.flag("use_qk_norm", default=True),
        norm_all_heads=True,
        attention_bias=False,
    )
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("intermediate_size"),
        n_shared_experts=0,
        scoring_func="sigmoid",
        norm_topk_prob=True,
        correction_bias=True,
    )
    rotated = fields.dimension("rotary_dim", default=attention.head_dim)
    return GroupedQueryModelConfig.read(
        fields,
        model_type="minimax_m2",
        attention=attention,
        rope=read_rope(
            fields,
            attention.head_dim,
            interleaved=False,
            default_share=rotated / attention.head_dim,
            default_theta=5e6,
        ),
        moe=moe,
        moe_layers=frozenset(range(fields.dimension("num_hidden_layers"))),
    )


def layer(config: GroupedQueryModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, size, moe = f"model.layers.{index}", config.hidden_size, config.moe
    block, also = f"{path}.block_sparse_moe", (f"{path}.mlp",)
    feed_forward = MoESpec(
        TopKRouterSpec(block, size, moe, correction_bias="e_score_correction_bias", also=also),
        GatedExpertsSpec(block, size, moe, names=("w1", "w3", "w2"), also=also),
    )
    return LayerSpec(path, size, config.rms_norm_eps, grouped_query_attention(config, index), feed_forward)

"""Mixtral: grouped-query attention, softmax over the chosen experts' logits, no shared experts.

Source: Mixtral of Experts, arXiv 2401.04088; transformers' `mixtral` for the numbers. Published checkpoints have the
experts below `block_sparse_moe`, those in the layout of transformers' memory below `mlp`.
"""

from __future__ import annotations

from mlx_moe.config import GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import GatedExpertsSpec, MoESpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec
from mlx_moe.rope_config import read_rope

DEFAULT_THETA = 1e6


def read_config(fields: ConfigFields) -> GroupedQueryModelConfig:
    """Read a `mixtral` config.json; missing values get transformers' defaults."""
    attention = GQAConfig.read(fields, default_kv_heads=8, qk_norm=False, attention_bias=False)
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("intermediate_size"),
        n_shared_experts=0,
        scoring_func="softmax",
        norm_topk_prob=True,  # equal to a softmax over the chosen logits
    )
    return GroupedQueryModelConfig.read(
        fields,
        model_type="mixtral",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False, default_theta=DEFAULT_THETA),
        moe=moe,
        moe_layers=frozenset(range(fields.dimension("num_hidden_layers"))),
        sliding_window=fields.optional("sliding_window"),
        default_norm_eps=1e-5,
    )


def layer(config: GroupedQueryModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, size, moe = f"model.layers.{index}", config.hidden_size, config.moe
    block, also = f"{path}.block_sparse_moe", (f"{path}.mlp",)
    feed_forward = MoESpec(
        TopKRouterSpec(block, size, moe, also=also),
        GatedExpertsSpec(block, size, moe, names=("w1", "w3", "w2"), also=also),
    )
    return LayerSpec(path, size, config.rms_norm_eps, grouped_query_attention(config, index), feed_forward)

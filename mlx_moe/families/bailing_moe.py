"""Ling and Ring (bailing_moe): queries, keys and values in one matrix, softmax or sigmoid router, shared experts.

Source: mlx-lm's `bailing_moe`, since transformers has none; groups of experts that are left out are masked as in
DeepSeek-V3. Checkpoints have other names than most: `word_embeddings`, `attention.dense`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlx_moe.checkpoint.parameter import Layout, Parameter, Source, renamed
from mlx_moe.config import GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import GatedExpertsSpec, MLPSpec, MoESpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec, layers_after_dense
from mlx_moe.rope_config import read_rope

NAMES = {
    "embed_tokens": "word_embeddings",
    "self_attn.o_proj": "attention.dense",
    "self_attn.q_norm": "attention.query_layernorm",
    "self_attn.k_norm": "attention.key_layernorm",
    "self_attn.": "attention.",
}
"""What the checkpoints call otherwise; the first that occurs counts."""


@dataclass(frozen=True, slots=True)
class BailingMoeConfig(GroupedQueryModelConfig):
    """The configuration of a `bailing_moe` model."""

    shared_intermediate_size: int


def read_config(fields: ConfigFields) -> BailingMoeConfig:
    """Read a `bailing_moe` config.json; missing values get mlx-lm's defaults."""
    for key in ("use_bias", "use_qkv_bias", "norm_head"):
        if fields.flag(key, default=False):
            raise fields.unsupported(f"{key} is not supported for bailing_moe")
    attention = GQAConfig.read(fields, qk_norm=fields.flag("use_qk_norm", default=False), attention_bias=False)
    chosen, groups = fields.dimension("num_experts_per_tok"), fields.dimension("n_group", default=1)
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=fields.optional("num_shared_experts", default=0) or 0,
        scoring_func=fields.choice("score_function", ("softmax", "sigmoid"), default="softmax"),
        norm_topk_prob=fields.flag("norm_topk_prob", default=True) and chosen > 1,
        routed_scaling_factor=fields.number("routed_scaling_factor", default=1.0),
        n_group=groups,
        topk_group=min(groups, fields.dimension("topk_group", default=4)),
        correction_bias=fields.flag("moe_router_enable_expert_bias", default=False),
    )
    share = (fields.optional("rotary_dim") or attention.head_dim) / attention.head_dim
    return BailingMoeConfig.read(
        fields,
        model_type="bailing_moe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False, default_share=share),
        moe=moe,
        moe_layers=layers_after_dense(fields, default=0),
        shared_intermediate_size=fields.optional("moe_shared_expert_intermediate_size") or moe.moe_intermediate_size,
    )


def layer(config: BailingMoeConfig, index: int) -> LayerSpec:
    """See Family."""
    path, size, moe = f"model.layers.{index}", config.hidden_size, config.moe
    mlp, shared_width = f"{path}.mlp", config.shared_intermediate_size * moe.n_shared_experts
    feed_forward: MLPSpec | MoESpec = MLPSpec(mlp, size, config.intermediate_size)
    if index in config.moe_layers:
        feed_forward = MoESpec(
            TopKRouterSpec(
                mlp, size, moe, gate="gate.gate_proj", also_gates=("gate",), correction_bias="gate.expert_bias"
            ),
            GatedExpertsSpec(mlp, size, moe),
            MLPSpec(f"{mlp}.shared_experts", size, shared_width) if shared_width else None,
        )
    return LayerSpec(path, size, config.rms_norm_eps, grouped_query_attention(config, index), feed_forward)


def stored(config: BailingMoeConfig, parameter: Parameter) -> Parameter:
    """Return how checkpoints store a parameter: under their own names, queries, keys and values as rows of one matrix.

    A conversion of our own has these three apart.
    """
    own = renamed(parameter, _name)
    path, _, name = parameter.name.rpartition(".self_attn.")
    a = config.attention
    q, kv = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    rows = {"q_proj": range(q), "k_proj": range(q, q + kv), "v_proj": range(q + kv, q + 2 * kv)}.get(name)
    if rows is None:
        return own
    fused = Source(f"{path}.attention.query_key_value.weight", (q + 2 * kv, config.hidden_size), (rows,))
    return replace(parameter, layouts=(*own.layouts, Layout((len(rows), config.hidden_size), (fused,))))


def _name(tensor: str) -> str:
    old = next((old for old in NAMES if old in tensor), "")
    return tensor.replace(old, NAMES[old]) if old else tensor

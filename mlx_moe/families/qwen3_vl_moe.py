"""Qwen3-VL-MoE, its text part: Qwen3-MoE with gates and ups in one stack, stored transposed.

Source: transformers' `qwen3_vl_moe`. Of text, all sections of its rotary embedding have one position.
"""

from __future__ import annotations

from dataclasses import replace

from mlx_moe.checkpoint.parameter import Layout, Parameter, Sign, renamed
from mlx_moe.config import GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families import multimodal
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import MLPSpec, MoESpec
from mlx_moe.families.joined_experts import JoinedExpertsSpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec, layers_by_step
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> GroupedQueryModelConfig:
    """Read the text part of a `qwen3_vl_moe` config.json; missing values get transformers' defaults."""
    fields = multimodal.text_fields(fields)
    attention = GQAConfig.read(
        fields, default_kv_heads=16, qk_norm=True, attention_bias=fields.flag("attention_bias", default=False)
    )
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=0,
        scoring_func="softmax",
        norm_topk_prob=True,
    )
    return GroupedQueryModelConfig.read(
        fields,
        model_type="qwen3_vl_moe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=False, default_theta=500_000.0),
        moe=moe,
        moe_layers=layers_by_step(fields),
    )


def layer(config: GroupedQueryModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, size = f"model.layers.{index}", config.hidden_size
    block = f"{path}.mlp"
    feed_forward: MLPSpec | MoESpec = MLPSpec(block, size, config.intermediate_size)
    if index in config.moe_layers:
        feed_forward = MoESpec(TopKRouterSpec(block, size, config.moe), JoinedExpertsSpec(block, size, config.moe))
    return LayerSpec(path, size, config.rms_norm_eps, grouped_query_attention(config, index), feed_forward)


def stored(config: GroupedQueryModelConfig, parameter: Parameter) -> Parameter:
    """Return how checkpoints store a parameter: below the names of the text part, stacks of experts in three ways.

    MLX's conversions have them as other families' do. Published ones are transposed, those that transformers 5 saves
    are not: the shape of `down_proj` tells them apart.
    """
    if parameter.routed:
        apart, *_, turned = parameter.layouts
        path = f"{parameter.name.rpartition('.')[0]}.down_proj"
        shape = (config.moe.n_routed_experts, config.moe.moe_intermediate_size, config.hidden_size)
        (apart,) = renamed(
            replace(parameter, layouts=(apart,)), lambda tensor: tensor.replace(".experts.", ".switch_mlp.")
        ).layouts
        layouts = (apart, replace(turned, sign=Sign(path, shape)), _not_turned(turned))
        parameter = replace(parameter, layouts=layouts)
    return multimodal.stored(parameter)


def _not_turned(layout: Layout) -> Layout:
    """Return the layout of the same matrices that are stored with outputs as rows."""
    (source,) = layout.sources
    n_experts, n_inputs, n_outputs = source.shape
    rows = tuple(range(r.start // n_inputs * n_outputs, r.stop // n_inputs * n_outputs) for r in source.rows)
    source = replace(source, shape=(n_experts, n_outputs, n_inputs), rows=rows)
    return replace(layout, shape=(layout.shape[0], n_outputs, n_inputs), sources=(source,), transposed=False)

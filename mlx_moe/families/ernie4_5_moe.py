"""ERNIE 4.5: interleaved rope, softmax router with a bias for the choice, shared experts, dense first layers.

Source: transformers' `ernie4_5_moe`. Checkpoints without the router's bias, as mlx-lm writes them, are refused: the
published models choose other experts without it.
"""

from __future__ import annotations

from mlx_moe.config import GQAConfig, GroupedQueryModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import grouped_query_attention
from mlx_moe.families.feed_forward import GatedExpertsSpec, MLPSpec, MoESpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec
from mlx_moe.rope_config import read_rope


def read_config(fields: ConfigFields) -> GroupedQueryModelConfig:
    """Read an `ernie4_5_moe` config.json; missing values get transformers' defaults."""
    if fields.flag("use_bias", default=False):
        raise fields.unsupported("use_bias is not supported for ernie4_5_moe")
    attention = GQAConfig.read(fields, default_kv_heads=4, qk_norm=False, attention_bias=False)
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=fields.optional("moe_num_shared_experts", default=2) or 0,
        scoring_func="softmax",
        norm_topk_prob=True,
        correction_bias=True,
    )
    return GroupedQueryModelConfig.read(
        fields,
        model_type="ernie4_5_moe",
        attention=attention,
        rope=read_rope(fields, attention.head_dim, interleaved=True, default_theta=500_000.0),
        moe=moe,
        moe_layers=_moe_layers(fields),
        default_norm_eps=1e-5,
        default_tied=True,
    )


def layer(config: GroupedQueryModelConfig, index: int) -> LayerSpec:
    """See Family."""
    path, size, moe = f"model.layers.{index}", config.hidden_size, config.moe
    mlp = f"{path}.mlp"
    feed_forward: MLPSpec | MoESpec = MLPSpec(mlp, size, config.intermediate_size)
    if index in config.moe_layers:
        bias, width = "moe_statics.e_score_correction_bias", moe.moe_intermediate_size * moe.n_shared_experts
        feed_forward = MoESpec(
            TopKRouterSpec(mlp, size, moe, correction_bias=bias, also=(f"{mlp}.gate",), correction_bias_is_row=True),
            GatedExpertsSpec(mlp, size, moe),
            MLPSpec(f"{mlp}.shared_experts", size, width) if width else None,
        )
    return LayerSpec(path, size, config.rms_norm_eps, grouped_query_attention(config, index), feed_forward)


def _moe_layers(fields: ConfigFields) -> frozenset[int]:
    """Return the layers with experts: each moe_layer_interval-th from moe_layer_start_index to moe_layer_end_index."""
    n_layers = fields.dimension("num_hidden_layers")
    start = fields.dimension("moe_layer_start_index", default=1, minimum=0)
    end = fields.dimension("moe_layer_end_index", default=-1, minimum=-1)
    interval = fields.dimension("moe_layer_interval", default=1)
    last = n_layers - 1 if end == -1 else end
    return frozenset(layer for layer in range(n_layers) if (layer + 1) % interval == 0 and start <= layer <= last)

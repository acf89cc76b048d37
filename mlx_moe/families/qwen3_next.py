"""Qwen3-Next: Gated DeltaNet in most layers, gated grouped-query attention in the others, softmax router, MTP.

Source: transformers' `qwen3_next` for the numbers; vLLM's `qwen3_next_mtp` for the MTP layer, which transformers drops.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlx_moe.checkpoint.parameter import Parameter, renamed, with_offset
from mlx_moe.config import DeltaNetConfig, GQAConfig, ModelConfig, MoEConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families.attention import GroupedQueryAttentionSpec
from mlx_moe.families.delta_net import GatedDeltaNetSpec, converted
from mlx_moe.families.feed_forward import GatedExpertsSpec, MLPSpec, MoESpec, SigmoidGatedMLPSpec
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.routing import TopKRouterSpec, layers_by_step
from mlx_moe.rope_config import read_rope

LINEAR, FULL = "linear_attention", "full_attention"

MTP_NAMES = {
    "enorm": "mtp.pre_fc_norm_embedding",
    "hnorm": "mtp.pre_fc_norm_hidden",
    "eh_proj": "mtp.fc",
    "shared_head.norm": "mtp.norm",
}
"""Where checkpoints have what belongs to the MTP layer beside its decoder layer."""


@dataclass(frozen=True, slots=True)
class Qwen3NextConfig(ModelConfig):
    """The configuration of a `qwen3_next` model. `linear_layers` are the indices of layers with Gated DeltaNet."""

    attention: GQAConfig
    delta_net: DeltaNetConfig
    linear_layers: frozenset[int]
    shared_expert_intermediate_size: int


def read_config(fields: ConfigFields) -> Qwen3NextConfig:
    """Read a `qwen3_next` config.json; missing values get transformers' defaults."""
    return read(fields, model_type="qwen3_next", default_mtp_layers=1)


def layer(config: Qwen3NextConfig, index: int) -> LayerSpec:
    """See Family."""
    return describe(config, index, by_head=True)


def read(fields: ConfigFields, *, model_type: str, default_mtp_layers: int) -> Qwen3NextConfig:
    """Read the values of a model with these layers. Raises CheckpointError, UnsupportedModelError."""
    n_layers = fields.dimension("num_hidden_layers")
    attention = GQAConfig.read(
        fields,
        default_kv_heads=2,
        qk_norm=True,
        attention_bias=fields.flag("attention_bias", default=False),
        output_gate=True,
    )
    moe = MoEConfig.read(
        fields,
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=1,
        scoring_func="softmax",
        norm_topk_prob=fields.flag("norm_topk_prob", default=True),
    )
    mtp_layers = fields.optional("num_nextn_predict_layers", "mtp_num_hidden_layers", default=default_mtp_layers) or 0
    return Qwen3NextConfig.read(
        fields,
        model_type=model_type,
        attention=attention,
        delta_net=DeltaNetConfig.read(fields),
        linear_layers=_linear_layers(fields, n_layers),
        shared_expert_intermediate_size=fields.dimension("shared_expert_intermediate_size"),
        rope=read_rope(fields, attention.head_dim, interleaved=False, default_share=0.25),
        moe=moe,
        moe_layers=layers_by_step(fields) | set(range(n_layers, n_layers + mtp_layers)),
        num_nextn_predict_layers=mtp_layers,
    )


def describe(config: Qwen3NextConfig, index: int, *, by_head: bool) -> LayerSpec:
    """Describe layer `index`; `by_head` as in GatedDeltaNetSpec."""
    path, size, norm_eps = f"model.layers.{index}", config.hidden_size, config.rms_norm_eps
    attention: GatedDeltaNetSpec | GroupedQueryAttentionSpec = (
        GatedDeltaNetSpec(f"{path}.linear_attn", size, config.delta_net, norm_eps, by_head)
        if index in config.linear_layers
        else GroupedQueryAttentionSpec(f"{path}.self_attn", size, config.attention, config.rope, norm_eps)
    )
    return LayerSpec(path, size, norm_eps, attention, _feed_forward(config, index))


def stored(config: Qwen3NextConfig, parameter: Parameter) -> Parameter:
    """Return how checkpoints store a parameter: norms less 1 but in MLX's conversions, the MTP layer apart."""
    name = parameter.name
    if name.endswith("norm.weight") and "linear_attn" not in name and config.linear_layers:
        path = f"model.layers.{min(config.linear_layers)}.linear_attn"
        parameter = with_offset(parameter, 1.0, converted(path, config.delta_net))
    prefix = f"model.layers.{config.num_hidden_layers}."
    return renamed(parameter, lambda tensor: _mtp_name(tensor, prefix)) if name.startswith(prefix) else parameter


def _mtp_name(tensor: str, prefix: str) -> str:
    if not tensor.startswith(prefix):
        return tensor
    path, _, end = tensor.removeprefix(prefix).rpartition(".")
    return f"{MTP_NAMES[path]}.{end}" if path in MTP_NAMES else f"mtp.layers.0.{path}.{end}"


def _feed_forward(config: Qwen3NextConfig, index: int) -> MLPSpec | MoESpec:
    path, size = f"model.layers.{index}.mlp", config.hidden_size
    if index not in config.moe_layers:
        return MLPSpec(path, size, config.intermediate_size)
    shared = MLPSpec(f"{path}.shared_expert", size, config.shared_expert_intermediate_size)
    return MoESpec(
        TopKRouterSpec(path, size, config.moe),
        GatedExpertsSpec(path, size, config.moe),
        SigmoidGatedMLPSpec(shared, f"{path}.shared_expert_gate"),
    )


def _linear_layers(fields: ConfigFields, n_layers: int) -> frozenset[int]:
    """Return the layers with Gated DeltaNet: those in `layer_types`, or all but each `full_attention_interval`-th."""
    interval = fields.dimension("full_attention_interval", default=4)
    default = [FULL if (layer + 1) % interval == 0 else LINEAR for layer in range(n_layers)]
    types = fields.choices("layer_types", (LINEAR, FULL), default)
    return frozenset(layer for layer, kind in enumerate(types) if kind == LINEAR)

"""A decoder layer of any family: its norms and its feed-forward half around the attention that the family brings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_moe.checkpoint.parameter import Parameter, experts, linear, vector
from mlx_moe.config import ModelConfig
from mlx_moe.families.registry import find

if TYPE_CHECKING:
    from mlx_moe.layers.decoder import DecoderLayer
    from mlx_moe.layers.experts import Experts
    from mlx_moe.layers.weights import LoadedParameters


def layer_parameters(config: ModelConfig, layer: int, owned_experts: Sequence[int]) -> list[Parameter]:
    """Return the parameters of one decoder layer, with only the owned rows of its expert stacks."""
    prefix = f"model.layers.{layer}"
    return [
        vector(f"{prefix}.input_layernorm.weight", config.hidden_size),
        *find(config.model_type).attention_parameters(config, f"{prefix}.self_attn"),
        vector(f"{prefix}.post_attention_layernorm.weight", config.hidden_size),
        *_feed_forward_parameters(config, prefix, layer, owned_experts),
    ]


def build_layer(
    config: ModelConfig, layer: int, owned_experts: Sequence[int], loaded: LoadedParameters
) -> DecoderLayer:
    """Return a decoder layer over its loaded parameters, dense or MoE as the configuration says."""
    from mlx_moe.layers.decoder import DecoderLayer
    from mlx_moe.layers.feed_forward import MLP, MoE
    from mlx_moe.layers.router import Router

    scope = loaded.scope(f"model.layers.{layer}")
    mlp = scope.scope("mlp")
    if layer not in config.moe_layers:
        feed_forward: MLP | MoE = MLP(mlp)
    else:
        routed = build_experts(config, layer, owned_experts, loaded) if owned_experts else None
        shared = MLP(mlp.scope("shared_experts")) if config.moe.n_shared_experts else None
        feed_forward = MoE(Router(config.moe, mlp), routed, shared)
    attention = find(config.model_type).build_attention(config, scope.scope("self_attn"))
    return DecoderLayer(scope, config.rms_norm_eps, attention, feed_forward)


def expert_parameters(config: ModelConfig, layer: int, owned_experts: Sequence[int]) -> list[Parameter]:
    """Return the owned rows of one layer's expert stacks; nothing where none are owned."""
    if not owned_experts:
        return []
    width, hidden_size = config.moe.moe_intermediate_size, config.hidden_size
    shapes = {"gate_proj": (width, hidden_size), "up_proj": (width, hidden_size), "down_proj": (hidden_size, width)}
    return [
        experts(f"model.layers.{layer}", projection, config.moe.n_routed_experts, owned_experts, *shape)
        for projection, shape in shapes.items()
    ]


def build_experts(config: ModelConfig, layer: int, owned_experts: Sequence[int], loaded: LoadedParameters) -> Experts:
    """Return one layer's owned experts over their loaded parameters."""
    from mlx_moe.layers.experts import Experts

    return Experts(config.moe.n_routed_experts, owned_experts, loaded.scope(f"model.layers.{layer}.mlp.experts"))


def _feed_forward_parameters(
    config: ModelConfig, prefix: str, layer: int, owned_experts: Sequence[int]
) -> list[Parameter]:
    """Return the router, the owned experts and the shared experts of an MoE layer, or a dense layer's MLP."""
    hidden_size, moe = config.hidden_size, config.moe
    if layer not in config.moe_layers:
        return _mlp_parameters(f"{prefix}.mlp", hidden_size, config.intermediate_size)
    parameters = [linear(f"{prefix}.mlp.gate", moe.n_routed_experts, hidden_size, float32=True)]
    if moe.correction_bias:
        name = f"{prefix}.mlp.gate.e_score_correction_bias"
        parameters.append(vector(name, moe.n_routed_experts, float32=True))
    parameters += expert_parameters(config, layer, owned_experts)
    if moe.n_shared_experts:
        shared_width = moe.moe_intermediate_size * moe.n_shared_experts
        parameters += _mlp_parameters(f"{prefix}.mlp.shared_experts", hidden_size, shared_width)
    return parameters


def _mlp_parameters(path: str, hidden_size: int, intermediate_size: int) -> list[Parameter]:
    return [
        linear(f"{path}.gate_proj", intermediate_size, hidden_size),
        linear(f"{path}.up_proj", intermediate_size, hidden_size),
        linear(f"{path}.down_proj", hidden_size, intermediate_size),
    ]

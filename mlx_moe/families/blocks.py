"""What the families share: the residual frame of a decoder layer and its feed-forward half."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_moe.config import ModelConfig
from mlx_moe.parameter import Parameter, experts, linear, vector

if TYPE_CHECKING:
    from mlx_moe.layers.decoder import Attention, DecoderLayer
    from mlx_moe.weights import LoadedParameters


def norm_parameters(config: ModelConfig, prefix: str) -> list[Parameter]:
    """Return the two norms that every decoder layer has."""
    return [
        vector(f"{prefix}.{name}.weight", config.hidden_size)
        for name in ("input_layernorm", "post_attention_layernorm")
    ]


def moe_or_mlp_parameters(
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
    if owned_experts:
        width = moe.moe_intermediate_size
        shapes = {"gate_proj": (width, hidden_size), "up_proj": (width, hidden_size), "down_proj": (hidden_size, width)}
        parameters += [
            experts(prefix, projection, moe.n_routed_experts, owned_experts, *shape)
            for projection, shape in shapes.items()
        ]
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


def build_decoder_layer(
    config: ModelConfig,
    layer: int,
    owned_experts: Sequence[int],
    scope: LoadedParameters,
    attention: Attention,
) -> DecoderLayer:
    """Return a decoder layer around `attention`, dense or MoE as the configuration says."""
    from mlx_moe.layers.decoder import DecoderLayer
    from mlx_moe.layers.experts import Experts
    from mlx_moe.layers.feed_forward import MLP, MoE
    from mlx_moe.layers.router import Router

    mlp = scope.scope("mlp")
    if layer not in config.moe_layers:
        feed_forward: MLP | MoE = MLP(mlp)
    else:
        routed = Experts(config.moe.n_routed_experts, owned_experts, mlp.scope("experts")) if owned_experts else None
        shared = MLP(mlp.scope("shared_experts")) if config.moe.n_shared_experts else None
        feed_forward = MoE(Router(config.moe, mlp), routed, shared)
    return DecoderLayer(scope, config.rms_norm_eps, attention, feed_forward)

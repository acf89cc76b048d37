"""Qwen3-MoE: grouped-query attention with normed queries and keys, softmax router, no shared experts.

Source: Qwen3 technical report, arXiv 2505.09388; transformers' `qwen3_moe` for the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_moe.config import ConfigFields, GQAConfig, ModelConfig, MoEConfig, read_quantization, read_rope
from mlx_moe.errors import CheckpointError
from mlx_moe.families.blocks import moe_or_mlp_parameters, norm_parameters
from mlx_moe.parameter import Parameter, linear, vector

if TYPE_CHECKING:
    from mlx_moe.layers.decoder import DecoderLayer
    from mlx_moe.weights import LoadedParameters


def read_config(fields: ConfigFields) -> ModelConfig:
    """Read a `qwen3_moe` config.json."""
    if fields.flag("use_sliding_window", default=False):
        raise fields.unsupported("use_sliding_window is not supported for qwen3_moe")
    num_hidden_layers = fields.dimension("num_hidden_layers")
    max_position_embeddings = fields.dimension("max_position_embeddings")
    hidden_size = fields.dimension("hidden_size")
    heads = fields.dimension("num_attention_heads")
    attention = GQAConfig(
        num_attention_heads=heads,
        num_key_value_heads=fields.dimension("num_key_value_heads", default=heads),
        head_dim=fields.dimension("head_dim", default=hidden_size // heads, minimum=2),
        qk_norm=True,
        attention_bias=fields.flag("attention_bias", default=False),
    )
    if heads % attention.num_key_value_heads:
        raise CheckpointError(
            f"config.json: {heads} attention heads cannot share {attention.num_key_value_heads} key-value heads"
        )
    moe = MoEConfig(
        n_routed_experts=fields.dimension("num_experts", "num_local_experts"),
        num_experts_per_tok=fields.dimension("num_experts_per_tok"),
        moe_intermediate_size=fields.dimension("moe_intermediate_size"),
        n_shared_experts=0,
        scoring_func="softmax",
        norm_topk_prob=fields.flag("norm_topk_prob", default=False),
    )
    if moe.num_experts_per_tok > moe.n_routed_experts:
        raise CheckpointError(
            f"config.json: {moe.num_experts_per_tok} experts a token of {moe.n_routed_experts} experts"
        )
    dense_layers = fields.dimensions("mlp_only_layers")
    step = fields.dimension("decoder_sparse_step", default=1)
    quantization, overrides = read_quantization(fields)
    return ModelConfig(
        model_type="qwen3_moe",
        vocab_size=fields.dimension("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.dimension("intermediate_size"),
        num_hidden_layers=num_hidden_layers,
        max_position_embeddings=max_position_embeddings,
        rms_norm_eps=fields.number("rms_norm_eps", default=1e-6, above=0),
        tie_word_embeddings=fields.flag("tie_word_embeddings", default=False),
        attention=attention,
        rope=read_rope(fields, attention.head_dim, False, max_position_embeddings),
        moe=moe,
        moe_layers=frozenset(
            layer for layer in range(num_hidden_layers) if layer not in dense_layers and (layer + 1) % step == 0
        ),
        num_nextn_predict_layers=0,
        quantization=quantization,
        quantization_overrides=overrides,
    )


def layer_parameters(config: ModelConfig, layer: int, owned_experts: Sequence[int]) -> list[Parameter]:
    """Return the parameters of one decoder layer."""
    prefix = f"model.layers.{layer}"
    return [
        *norm_parameters(config, prefix),
        *_attention_parameters(config, f"{prefix}.self_attn"),
        *moe_or_mlp_parameters(config, prefix, layer, owned_experts),
    ]


def _attention_parameters(config: ModelConfig, path: str) -> list[Parameter]:
    a = config.attention
    assert isinstance(a, GQAConfig)
    q_out, kv_out = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    out_features = {"q_proj": q_out, "k_proj": kv_out, "v_proj": kv_out, "o_proj": config.hidden_size}
    parameters = [
        linear(f"{path}.{name}", size, q_out if name == "o_proj" else config.hidden_size)
        for name, size in out_features.items()
    ]
    if a.attention_bias:
        parameters += [vector(f"{path}.{name}.bias", size) for name, size in out_features.items()]
    if a.qk_norm:
        parameters += [vector(f"{path}.{name}.weight", a.head_dim) for name in ("q_norm", "k_norm")]
    return parameters


def build_layer(
    config: ModelConfig, layer: int, owned_experts: Sequence[int], loaded: LoadedParameters
) -> DecoderLayer:
    """Return the layer over its loaded parameters."""
    from mlx_moe.families.blocks import build_decoder_layer
    from mlx_moe.layers.grouped_attention import GroupedQueryAttention

    assert isinstance(config.attention, GQAConfig)
    scope = loaded.scope(f"model.layers.{layer}")
    attention = GroupedQueryAttention(config.attention, config.rope, config.rms_norm_eps, scope.scope("self_attn"))
    return build_decoder_layer(config, layer, owned_experts, scope, attention)

"""Ends: the parameters that all families have in common: embedding, final norm, lm_head and the MTP layer."""

from __future__ import annotations

from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.parameter import Parameter, linear, vector
from mlx_moe.checkpoint.quantization import is_readable
from mlx_moe.config import ModelConfig
from mlx_moe.families.registry import layer, stored


def head_parameters(config: ModelConfig) -> list[Parameter]:
    """Return the embedding, the final norm and the lm_head (none of its own if the weights are tied)."""
    parameters = [
        linear("model.embed_tokens", config.vocab_size, config.hidden_size),
        vector("model.norm.weight", config.hidden_size),
    ]
    if not config.tie_word_embeddings:
        parameters.append(linear("lm_head", config.vocab_size, config.hidden_size))
    if config.ends.norm_bias:
        parameters.append(vector("model.norm.bias", config.hidden_size))
    if config.ends.lm_head_bias:
        parameters.append(vector("lm_head.bias", config.vocab_size))
    return [stored(config, parameter) for parameter in parameters]


def mtp_parameters(config: ModelConfig) -> list[Parameter]:
    """Return the parameters of the first MTP layer, which follows the model's last layer."""
    index, hidden_size = config.num_hidden_layers, config.hidden_size
    prefix = f"model.layers.{index}"
    own = [
        vector(f"{prefix}.enorm.weight", hidden_size),
        vector(f"{prefix}.hnorm.weight", hidden_size),
        linear(f"{prefix}.eh_proj", hidden_size, 2 * hidden_size),
        vector(f"{prefix}.shared_head.norm.weight", hidden_size),
    ]
    decoder = layer(config, index).parameters(range(config.moe.n_routed_experts))
    return [*decoder, *(stored(config, parameter) for parameter in own)]


def has_mtp(checkpoint: Checkpoint, config: ModelConfig) -> bool:
    """Whether the checkpoint has its complete MTP layer; many conversions drop it or a part of it."""
    return config.num_nextn_predict_layers > 0 and not missing_mtp(checkpoint, config)


def missing_mtp(checkpoint: Checkpoint, config: ModelConfig) -> list[str]:
    """Return the names of parameters of the MTP layer in config.json that the files do not have."""
    if not config.num_nextn_predict_layers:
        return []
    return [p.name for p in mtp_parameters(config) if not any(is_readable(checkpoint, lo) for lo in p.layouts)]

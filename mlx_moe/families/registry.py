"""Registry: the family of each `model_type`, and the interface of a family module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.parameter import Parameter, linear
from mlx_moe.checkpoint.quantization import is_readable
from mlx_moe.config import ModelConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.errors import CheckpointError, UnsupportedModelError
from mlx_moe.families import (
    bailing_moe,
    deepseek_v2,
    deepseek_v3,
    deepseek_v32,
    dots1,
    ernie4_5_moe,
    exaone_moe,
    glm4,
    glm4_moe,
    glm4_moe_lite,
    glm_moe_dsa,
    gpt_oss,
    granitemoe,
    kimi_k25,
    llama,
    llama4_text,
    minimax_m2,
    mixtral,
    olmoe,
    phimoe,
    qwen2_moe,
    qwen3_5_moe,
    qwen3_moe,
    qwen3_next,
    qwen3_vl_moe,
)
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.layers.cache_costs import CacheCosts

MAX_EXPERTS = 1 << 17
"""Most experts of all layers together: five times those of Kimi-K2. Each is listed with its matrices."""


class Family(Protocol):
    """The functions of a family module."""

    def read_config(self, fields: ConfigFields) -> ModelConfig:
        """Read config.json. Raises CheckpointError."""

    def layer(self, config: Any, index: int) -> LayerSpec:
        """Describe layer `index` of a config read by this family. The MTP layer's index follows the last layer's."""


FAMILIES: dict[str, Family] = {
    "bailing_moe": bailing_moe,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "deepseek_v32": deepseek_v32,
    "dots1": dots1,
    "ernie4_5_moe": ernie4_5_moe,
    "exaone_moe": exaone_moe,
    "glm4": glm4,
    "glm4_moe": glm4_moe,
    "glm4_moe_lite": glm4_moe_lite,
    "glm_moe_dsa": glm_moe_dsa,
    "gpt_oss": gpt_oss,
    "granitemoe": granitemoe,
    "kimi_k2": deepseek_v3,
    "kimi_k25": kimi_k25,
    "llama": llama,
    "llama4": llama4_text,
    "llama4_text": llama4_text,
    "minimax": minimax_m2,
    "minimax_m2": minimax_m2,
    "mistral": llama,
    "mixtral": mixtral,
    "olmoe": olmoe,
    "phimoe": phimoe,
    "qwen2": llama,
    "qwen2_moe": qwen2_moe,
    "qwen3": llama,
    "qwen3_5_moe": qwen3_5_moe,
    "qwen3_5_moe_text": qwen3_5_moe,
    "qwen3_moe": qwen3_moe,
    "qwen3_next": qwen3_next,
    "qwen3_vl_moe": qwen3_vl_moe,
    "qwen3_vl_moe_text": qwen3_vl_moe,
}

_STORED: dict[str, Callable[[Any, Parameter], Parameter]] = {
    "bailing_moe": bailing_moe.stored,
    "kimi_k25": kimi_k25.stored,
    "llama4": llama4_text.stored,
    "qwen3_5_moe": qwen3_5_moe.stored,
    "qwen3_next": qwen3_next.stored,
    "qwen3_vl_moe": qwen3_vl_moe.stored,
}
"""How the checkpoints of some families store a parameter, if not under its own name."""


def find(model_type: str) -> Family:
    """Return the family of `model_type`. Raises UnsupportedModelError."""
    try:
        return FAMILIES[model_type]
    except KeyError:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedModelError(f"model type {model_type!r} is not supported; supported are: {known}") from None


def read_config(values: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
    """Read the parsed `values` of a config.json. Raises CheckpointError, UnsupportedModelError."""
    fields = ConfigFields(values, source)
    if not fields.has("model_type"):
        raise UnsupportedModelError(f"{source}: model_type is missing; supported are: {', '.join(sorted(FAMILIES))}")
    config = find(fields.word("model_type", default="")).read_config(fields)
    n_experts = config.num_hidden_layers * config.moe.n_routed_experts
    if n_experts > MAX_EXPERTS:
        raise CheckpointError(
            f"{source}: {config.num_hidden_layers:,} layers of {config.moe.n_routed_experts:,} experts are more than "
            f"the {MAX_EXPERTS:,} experts that a model may have"
        )
    return config


def config_of(checkpoint: Checkpoint) -> ModelConfig:
    """Read a checkpoint's config.json. Raises as `read_config`; the message has the file's path.

    An lm_head in the files counts even if config.json ties it to the embedding, as in transformers: some were trained
    apart. Others are a copy, which headers do not tell.
    """
    config = read_config(checkpoint.config, str(checkpoint.directory / "config.json"))
    if config.tie_word_embeddings and _has_lm_head(checkpoint, config):
        return replace(config, tie_word_embeddings=False)
    return config


def layer(config: ModelConfig, index: int) -> LayerSpec:
    """Describe layer `index` of a model; the index of the MTP layer, if there is one, follows the last layer's."""
    return replace(find(config.model_type).layer(config, index), stored=partial(stored, config))


def stored(config: ModelConfig, parameter: Parameter) -> Parameter:
    """Return a parameter with the layouts in which the model's checkpoints store it."""
    layouts_of = _STORED.get(config.model_type)
    return parameter if layouts_of is None else layouts_of(config, parameter)


def cache_costs(config: ModelConfig, float_bytes: int) -> CacheCosts:
    """Return the costs of one sequence's caches in all layers, with numbers of `float_bytes`.

    Raises UnsupportedModelError if no layer keeps all positions: budgets count positions.
    """
    layers = (layer(config, index) for index in range(config.num_hidden_layers))
    costs = sum((spec.attention.cache_costs(float_bytes) for spec in layers), CacheCosts())
    costs = costs.within(config.context.tokens)
    if not costs.full_bytes_per_position:
        raise UnsupportedModelError(
            f"{config.model_type}: all layers have sliding windows or recurrent states, which is not supported: take a "
            f"model with full attention in some layers"
        )
    return costs


def _has_lm_head(checkpoint: Checkpoint, config: ModelConfig) -> bool:
    lm_head = stored(config, linear("lm_head", config.vocab_size, config.hidden_size))
    return any(is_readable(checkpoint, layout) for layout in lm_head.layouts)

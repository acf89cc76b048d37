"""Kimi-K2.5, its text part: the layers of DeepSeek-V3.

Source: transformers' `kimi_k25` for the names, `deepseek_v3` for the numbers.
"""

from __future__ import annotations

from dataclasses import replace

from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.config import LatentModelConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families import deepseek_v3, multimodal
from mlx_moe.families.layer_spec import LayerSpec


def read_config(fields: ConfigFields) -> LatentModelConfig:
    """Read the text part of a `kimi_k25` config.json."""
    return replace(deepseek_v3.read_config(multimodal.text_fields(fields)), model_type="kimi_k25")


def layer(config: LatentModelConfig, index: int) -> LayerSpec:
    """See Family."""
    return deepseek_v3.layer(config, index)


def stored(config: LatentModelConfig, parameter: Parameter) -> Parameter:  # noqa: ARG001
    """Return how checkpoints store a parameter: below the names of the text part."""
    return multimodal.stored(parameter)

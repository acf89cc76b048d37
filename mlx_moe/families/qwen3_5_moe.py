"""Qwen3.5-MoE, its text part: the layers of Qwen3-Next with the input projections of Gated DeltaNet apart.

Source: transformers' `qwen3_5_moe` for the numbers. Of text, all sections of its rotary embedding have one position.
"""

from __future__ import annotations

from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.config_fields import ConfigFields
from mlx_moe.families import multimodal, qwen3_next
from mlx_moe.families.layer_spec import LayerSpec
from mlx_moe.families.qwen3_next import Qwen3NextConfig


def read_config(fields: ConfigFields) -> Qwen3NextConfig:
    """Read the text part of a `qwen3_5_moe` config.json; missing values get transformers' defaults."""
    return qwen3_next.read(multimodal.text_fields(fields), model_type="qwen3_5_moe", default_mtp_layers=0)


def layer(config: Qwen3NextConfig, index: int) -> LayerSpec:
    """See Family."""
    return qwen3_next.describe(config, index, by_head=False)


def stored(config: Qwen3NextConfig, parameter: Parameter) -> Parameter:
    """Return how checkpoints store a parameter: as Qwen3-Next's do, below the names of the text part."""
    return multimodal.stored(qwen3_next.stored(config, parameter))

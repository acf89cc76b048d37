"""Which family a `model_type` is of, and what a family module offers."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.config import ModelConfig
from mlx_moe.config_fields import ConfigFields
from mlx_moe.errors import UnsupportedModelError
from mlx_moe.families import deepseek_v3, qwen3_moe

if TYPE_CHECKING:
    from mlx_moe.layers.decoder import Attention
    from mlx_moe.layers.weights import LoadedParameters


class Family(Protocol):
    """What a family module offers."""

    def read_config(self, fields: ConfigFields) -> ModelConfig:
        """Read config.json. Raises CheckpointError."""

    def attention_parameters(self, config: ModelConfig, path: str) -> list[Parameter]:
        """Return the parameters of one layer's attention, named below `path`."""

    def build_attention(self, config: ModelConfig, parameters: LoadedParameters) -> Attention:
        """Return one layer's attention over its loaded parameters."""


_FAMILIES: dict[str, ModuleType] = {
    "deepseek_v3": deepseek_v3,
    "kimi_k2": deepseek_v3,
    "qwen3_moe": qwen3_moe,
}


def find(model_type: str) -> Family:
    """Return the family of `model_type`. Raises UnsupportedModelError."""
    try:
        return cast("Family", _FAMILIES[model_type])
    except KeyError:
        known = ", ".join(sorted(_FAMILIES))
        raise UnsupportedModelError(f"model type {model_type!r} is not supported; supported are: {known}") from None


def read_config(values: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
    """Read a config.json that was parsed to `values`. Raises CheckpointError, UnsupportedModelError."""
    fields = ConfigFields(values, source)
    if not fields.has("model_type"):
        raise UnsupportedModelError(f"{source}: model_type is missing; supported are: {', '.join(sorted(_FAMILIES))}")
    return find(fields.word("model_type", default="")).read_config(fields)

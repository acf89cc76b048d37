"""The model families: what each is made of, and how it reads config.json.

A family is a module with `read_config`, `layer_parameters` and `build_layer`; the blocks it is made of are shared
(`layers/`). `find` maps a `model_type` to its family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

from mlx_moe.config import ConfigFields, ModelConfig
from mlx_moe.errors import UnsupportedModelError
from mlx_moe.families import deepseek_v3, qwen3_moe
from mlx_moe.parameter import Parameter

if TYPE_CHECKING:
    from mlx_moe.layers.decoder import DecoderLayer
    from mlx_moe.weights import LoadedParameters


class Family(Protocol):
    """What a family module offers."""

    def read_config(self, fields: ConfigFields) -> ModelConfig:
        """Read config.json; raises CheckpointError."""

    def layer_parameters(self, config: ModelConfig, layer: int, owned_experts: Sequence[int]) -> list[Parameter]:
        """Return the parameters of one decoder layer, with only the owned rows of its expert stacks."""

    def build_layer(
        self, config: ModelConfig, layer: int, owned_experts: Sequence[int], loaded: LoadedParameters
    ) -> DecoderLayer:
        """Return the layer over its loaded parameters."""


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
        raise UnsupportedModelError(f"model type {model_type!r} is not supported; these are: {known}") from None


def read_config(values: Mapping[str, Any], source: str = "config.json") -> ModelConfig:
    """Read a config.json that was parsed to `values`. Raises CheckpointError, UnsupportedModelError."""
    fields = ConfigFields(values, source)
    return find(fields.word("model_type", default="")).read_config(fields)

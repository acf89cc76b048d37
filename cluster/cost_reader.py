"""CostReader: reads a model's costs from its headers, or for a known model from its published configuration.

Imports no MLX.
"""

from __future__ import annotations

from cluster.placement import ModelCosts
from cluster.placement.costs import assumed_sizes, model_costs
from mlx_moe import families, known_models
from mlx_moe.checkpoint import hub_cache, library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.recipe import AS_STORED, Recipe
from mlx_moe.checkpoint.stored_parameter import StoredParameter, find, require_effect, stored_dtype
from mlx_moe.config import ModelConfig, QuantizationConfig
from mlx_moe.content import read_content
from mlx_moe.errors import InvalidRequestError

DEFAULT_BITS = 4
GROUP_SIZE = 64
"""Affine groups of 64: 4 bits become 4.5 with their scales and biases, as mlx-community's conversions are stored."""


def read_costs(model: str, *, float_bytes: int, bits: int | None = None) -> ModelCosts:
    """Return the costs of `model`, as CostReader does."""
    return CostReader(model, float_bytes=float_bytes).at(bits)


class CostReader:
    """The costs of a model with any number of bits, by whatever name `library.locate` finds it.

    The headers are read once, by the constructor. A known model whose files are not here, or not all of them, is read
    from its published configuration.

    Raises:
        InvalidRequestError: there is no such model; says which known ones it may mean.
        UnsupportedModelError: it is of a family that is not run, as far as its name says it.
        CheckpointError: its config.json or its headers are damaged.
    """

    def __init__(self, model: str, *, float_bytes: int) -> None:
        self._model = model
        self._float_bytes = float_bytes
        published = known_models.published_config(model)
        self._checkpoint = _open(model, needed=not published)
        if self._checkpoint is None:
            self._config = families.read_config(published, model)
        else:
            self._config = families.config_of(self._checkpoint)

    def at(self, bits: int | None = None) -> ModelCosts:
        """Return the costs as stored (of known models as published in 4 bits), or with `bits` in affine groups of 64.

        What is stored in no more bits stays as it is stored. Raises InvalidRequestError if `bits` are more than that.
        """
        if self._checkpoint is not None:
            how = None if bits is None else QuantizationConfig(GROUP_SIZE, bits)
            return checkpoint_costs(
                self._model, self._checkpoint, self._config, float_bytes=self._float_bytes, recipe=Recipe(how, how)
            )
        size_of = assumed_sizes(self._assumed(bits), self._float_bytes)
        has_mtp = self._config.num_nextn_predict_layers > 0
        return model_costs(self._model, self._config, size_of, float_bytes=self._float_bytes, has_mtp=has_mtp)

    def _assumed(self, bits: int | None) -> Recipe:
        """Return how a known model is quantized: all of it, or its experts alone if it was published so."""
        section = known_models.published_config(self._model).get("quantization_config", {})
        how = QuantizationConfig(GROUP_SIZE, bits or DEFAULT_BITS)
        if section.get("quant_method") == "mxfp4" and (bits is None or bits >= DEFAULT_BITS):
            return Recipe(QuantizationConfig(32, 4, "mxfp4"), None if bits is None else how)
        return Recipe(how, how)

    def content_hash(self) -> str:
        """Return the model's content hash; "" for a known model without files."""
        if self._checkpoint is None:
            return ""
        with self._checkpoint:
            return read_content(self._checkpoint, self._config).hash


def checkpoint_costs(
    model: str, checkpoint: Checkpoint, config: ModelConfig, *, float_bytes: int, recipe: Recipe = AS_STORED
) -> ModelCosts:
    """Return the costs of an open checkpoint that is quantized by `recipe` while loading.

    Raises:
        CheckpointError: a parameter is missing, or its shape contradicts config.json.
        InvalidRequestError: the recipe asks for more bits than are stored.
    """
    ends = find(checkpoint, families.head_parameters(config))
    float_bytes = max(float_bytes, stored_dtype(ends).item_bytes)

    seen: list[StoredParameter] = []

    def size_of(parameter: Parameter) -> int:
        (stored,) = find(checkpoint, [parameter], recipe)
        seen.append(stored)
        return stored.memory_bytes(float_bytes)

    has_mtp = families.has_mtp(checkpoint, config)
    costs = model_costs(model, config, size_of, float_bytes=float_bytes, has_mtp=has_mtp)
    require_effect(checkpoint.directory, seen, recipe)
    return costs


def _open(model: str, *, needed: bool) -> Checkpoint | None:
    """Return a model's checkpoint; None if it is not `needed`, and not all of it is on this machine."""
    try:
        directory = library.locate(model)
    except InvalidRequestError as exc:
        if not needed:
            return None
        names = [name for name in known_models.suggestions(model) if "/" in model and name in model.lower()]
        if not names:
            raise
        plans = " or ".join(f"`moe-cluster plan {name}`" for name in names)
        raise InvalidRequestError(f"{exc}; to plan without its files: {plans}") from exc
    return Checkpoint.open(directory) if needed or hub_cache.is_complete(directory) else None

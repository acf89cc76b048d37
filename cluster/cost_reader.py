"""CostReader: reads a model's costs from its headers, or for a known model from its published configuration.

Imports no MLX.
"""

from __future__ import annotations

from cluster.placement import ModelCosts
from cluster.placement.costs import assumed_sizes, model_costs
from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.stored_parameter import find, stored_dtype
from mlx_moe.config import ModelConfig, QuantizationConfig
from mlx_moe.content import read_content
from mlx_moe.errors import InvalidRequestError, MoeClusterError, UnsupportedModelError
from mlx_moe.known_models import KNOWN_MODELS, refusal, suggestions, unsupported

DEFAULT_BITS = 4
GROUP_SIZE = 64
"""Affine groups of 64: 4 bits become 4.5 with their scales and biases, as mlx-community's conversions are stored."""


def read_costs(model: str, *, float_bytes: int, bits: int | None = None) -> ModelCosts:
    """Return the costs of `model`, as CostReader does."""
    return CostReader(model, float_bytes=float_bytes).at(bits)


class CostReader:
    """The costs of a model with any number of bits: a known model's name, a directory, a repo id or "demo".

    The headers are read once, by the constructor.

    Raises:
        InvalidRequestError: there is no such model; says which known ones it may mean.
        UnsupportedModelError: it is of a family that is not run, as far as its name says it.
        CheckpointError: its config.json or its headers are damaged.
    """

    def __init__(self, model: str, *, float_bytes: int) -> None:
        self._model = model
        self._float_bytes = float_bytes
        known = KNOWN_MODELS.get(model.lower())
        if known is not None:
            self._checkpoint = None
            self._config = families.read_config(known, model)
            return
        try:
            directory = library.locate(model)
        except InvalidRequestError as exc:
            raise _not_here(model, exc) from exc
        self._checkpoint = Checkpoint.open(directory)
        self._config = families.read_config(self._checkpoint.config, str(directory / "config.json"))

    def at(self, bits: int | None = None) -> ModelCosts:
        """Return the costs as stored (4 bits for known models), or with `bits` in affine groups of 64."""
        if self._checkpoint is not None:
            return checkpoint_costs(
                self._model, self._checkpoint, self._config, float_bytes=self._float_bytes, bits=bits
            )
        size_of = assumed_sizes(QuantizationConfig(GROUP_SIZE, bits or DEFAULT_BITS), self._float_bytes)
        has_mtp = self._config.num_nextn_predict_layers > 0
        return model_costs(self._model.lower(), self._config, size_of, float_bytes=self._float_bytes, has_mtp=has_mtp)

    def content_hash(self) -> str:
        """Return the model's content hash; "" for a known model without files."""
        if self._checkpoint is None:
            return ""
        with self._checkpoint:
            return read_content(self._checkpoint, self._config).hash


def checkpoint_costs(
    model: str, checkpoint: Checkpoint, config: ModelConfig, *, float_bytes: int, bits: int | None = None
) -> ModelCosts:
    """Return the costs of an open checkpoint. Raises CheckpointError."""
    ends = find(checkpoint, families.head_parameters(config))
    float_bytes = max(float_bytes, stored_dtype(ends).item_bytes)

    def stored_size(parameter: Parameter) -> int:
        return sum(stored.memory_bytes(float_bytes) for stored in find(checkpoint, [parameter]))

    size_of = stored_size if bits is None else assumed_sizes(QuantizationConfig(GROUP_SIZE, bits), float_bytes)
    has_mtp = families.has_mtp(checkpoint, config)
    return model_costs(model, config, size_of, float_bytes=float_bytes, has_mtp=has_mtp)


def _not_here(model: str, error: InvalidRequestError) -> MoeClusterError:
    """Return the error for a model that is not on this machine, with the plans that need no files."""
    if unsupported(model):
        return UnsupportedModelError(refusal(model))
    names = suggestions(model) or list(KNOWN_MODELS)
    return InvalidRequestError(
        f"{error}; to plan without its files: " + " or ".join(f"moe-cluster plan {name}" for name in names)
    )

"""ConversionPlan: the files of a converted checkpoint and the tensors in each, derived from headers alone.

The layout is mlx-community's: each parameter's first layout. Embedding, final norm and lm_head are one file, each layer
is one, and the MTP layer is one; what is larger than MAX_FILE_BYTES is split. Imports no MLX.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from mlx_moe import families
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.checkpoint.form import sibling
from mlx_moe.checkpoint.modes import WORD_BITS, quantization_text
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.recipe import Recipe
from mlx_moe.checkpoint.stored_parameter import Origin, StoredParameter, already_quantized, find, stored_dtype
from mlx_moe.config import ModelConfig, QuantizationConfig

MAX_FILE_BYTES = 5 * 10**9
"""Largest file, unless a single matrix is larger. A file is written from memory: this bounds the peak."""


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor that will be written."""

    name: str
    dtype: Dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes to write."""
        return math.prod(self.shape) * self.dtype.item_bytes


@dataclass(frozen=True, slots=True)
class PlannedParameter:
    """A parameter that will be written as `tensors` (weight, and scales and biases if it is quantized).

    `stored` is what is read for it, quantized unless it `is_turned`: then its last two axes are swapped first. Joined
    projections are written apart, as `n_projections` times such tensors.
    """

    stored: StoredParameter
    is_turned: bool
    float_dtype: Dtype
    quantization: QuantizationConfig | None
    tensors: tuple[PlannedTensor, ...]
    n_projections: int = 1

    @property
    def parameter(self) -> Parameter:
        """The parameter."""
        return self.stored.parameter

    @property
    def nbytes(self) -> int:
        """Bytes to write."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def is_computed(self) -> bool:
        """Whether other bytes are written than those that are stored."""
        return self.is_turned or self.n_projections > 1 or self.stored.origin.is_derived

    @property
    def keeps_rows(self) -> bool:
        """Whether stored rows that follow each other are written so."""
        return not self.is_turned and not self.stored.origin.layout.alternating

    @property
    def is_requantized(self) -> bool:
        """Whether it loses numbers twice: quantized before, and quantized otherwise now."""
        is_quantized = self.stored.origin.form.quantization is not None
        return (
            is_quantized and self.quantization is not None and (self.is_turned or self.stored.origin.target is not None)
        )

    @property
    def modules(self) -> list[str]:
        """The paths by which config.json names a quantized matrix."""
        weights = self.tensors[:: len(self.tensors) // self.n_projections]
        return [weight.name.removesuffix(".weight") for weight in weights]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that will be written. `part` is the layer, or ENDS or MTP."""

    name: str
    part: str
    parameters: tuple[PlannedParameter, ...]

    @property
    def tensors(self) -> list[PlannedTensor]:
        """All tensors, in the order in which they are converted."""
        return [tensor for parameter in self.parameters for tensor in parameter.tensors]

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(parameter.nbytes for parameter in self.parameters)


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """All files of a converted checkpoint. `has_mtp`: the MTP layer is among them."""

    files: tuple[PlannedFile, ...]
    recipe: Recipe
    has_mtp: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(file.nbytes for file in self.files)

    @property
    def parameters(self) -> list[PlannedParameter]:
        """The parameters of all files."""
        return [parameter for file in self.files for parameter in file.parameters]

    @property
    def n_weights(self) -> int:
        """The number of weights, unquantized."""
        return sum(math.prod(p.parameter.layouts[0].shape) for p in self.parameters)

    @property
    def bits_per_weight(self) -> float:
        """Bits that a weight takes on average, with scales and biases."""
        return 8 * self.nbytes / self.n_weights

    @property
    def requantized(self) -> list[PlannedParameter]:
        """The matrices that were quantized to more bits, and lose numbers once more."""
        return [p for p in self.parameters if p.is_requantized]

    @property
    def kept(self) -> list[PlannedParameter]:
        """The matrices that are quantized already, to as many bits as asked for or fewer, in another form."""
        return [
            p for p in self.parameters if p.quantization and self.recipe.of(p.parameter) not in (None, p.quantization)
        ]


ENDS, MTP = "embedding, final norm and lm_head", "multi-token prediction"


def plan(checkpoint: Checkpoint, config: ModelConfig, recipe: Recipe, *, keep_mtp: bool = True) -> ConversionPlan:
    """Plan a conversion by reading only headers.

    Raises:
        CheckpointError: a parameter is missing, or its shape contradicts config.json.
        UnsupportedModelError: a parameter is stored in a form that is not read.
        InvalidRequestError: all matrices are quantized already, to as many bits or fewer.
    """
    planned = all_files(checkpoint, config, recipe, keep_mtp=keep_mtp)
    if planned.kept and not any(p.is_computed for p in planned.parameters):
        first = planned.kept[0]
        assert first.quantization is not None
        raise already_quantized(checkpoint.directory, quantization_text(first.quantization))
    return planned


def all_files(checkpoint: Checkpoint, config: ModelConfig, recipe: Recipe, *, keep_mtp: bool = True) -> ConversionPlan:
    """Plan as `plan`, also if all matrices stay as they are."""
    has_mtp = keep_mtp and families.has_mtp(checkpoint, config)
    floats = floats_of(checkpoint, config)
    parts = [
        (name, list(_split([planned_parameter(checkpoint, parameter, recipe, floats) for parameter in parameters])))
        for name, parameters in _parts(config, has_mtp)
    ]
    count = sum(len(files) for _, files in parts)
    numbered = enumerate(((name, file) for name, files in parts for file in files), start=1)
    files = [PlannedFile(f"model-{i:05}-of-{count:05}.safetensors", name, file) for i, (name, file) in numbered]
    return ConversionPlan(tuple(files), recipe, has_mtp)


def floats_of(checkpoint: Checkpoint, config: ModelConfig) -> Dtype:
    """Return the dtype of floats in a converted checkpoint where the stored form has none."""
    return stored_dtype(find(checkpoint, families.head_parameters(config)))


def _parts(config: ModelConfig, has_mtp: bool) -> Iterator[tuple[str, list[Parameter]]]:
    yield ENDS, families.head_parameters(config)
    for index in range(config.num_hidden_layers):
        yield f"layer {index}", families.layer(config, index).parameters(range(config.moe.n_routed_experts))
    if has_mtp:
        yield MTP, families.mtp_parameters(config)


def planned_parameter(checkpoint: Checkpoint, parameter: Parameter, recipe: Recipe, floats: Dtype) -> PlannedParameter:
    """Plan one parameter, or the experts of one that somebody owns; `floats`: see `floats_of`. Raises as `plan`."""
    layout = parameter.layouts[0]
    (stored,) = find(checkpoint, [parameter], recipe)
    quantization = stored.quantization
    if is_turned := stored.transposed != layout.transposed:
        (stored,) = find(checkpoint, [parameter])
        quantization = recipe.of(parameter)
    float_dtype = stored.origin.form.float_dtype or floats
    shapes = {source.tensor: source.shape for source in layout.sources}
    tensors = [tensor for name, shape in shapes.items() for tensor in _tensors(name, shape, quantization, float_dtype)]
    return PlannedParameter(stored, is_turned, float_dtype, quantization, tuple(tensors), len(shapes))


def by_matrix(parameter: Parameter, origin: Origin) -> list[Origin]:
    """Return the matrices of a stack of experts, each as an origin of its own; of another parameter all of it."""
    matrices = origin.layout.matrices if parameter.routed else []
    return [replace(origin, layout=matrix) for matrix in matrices] or [origin]


def _tensors(
    name: str, shape: tuple[int, ...], quantization: QuantizationConfig | None, float_dtype: Dtype
) -> Iterator[PlannedTensor]:
    if quantization is None:
        yield PlannedTensor(name, float_dtype, shape)
        return
    *rows, width = shape
    groups = (*rows, width // quantization.group_size)
    is_affine = quantization.mode == "affine"
    yield PlannedTensor(name, Dtype.U32, (*rows, width * quantization.bits // WORD_BITS))
    yield PlannedTensor(sibling(name, "scales"), float_dtype if is_affine else Dtype.U8, groups)
    if is_affine:
        yield PlannedTensor(sibling(name, "biases"), float_dtype, groups)


def _split(parameters: Iterable[PlannedParameter]) -> Iterator[tuple[PlannedParameter, ...]]:
    """Yield the parameters of each file of a part."""
    file: list[PlannedParameter] = []
    for parameter in parameters:
        if file and sum(p.nbytes for p in file) + parameter.nbytes > MAX_FILE_BYTES:
            yield tuple(file)
            file = []
        file.append(parameter)
    yield tuple(file)

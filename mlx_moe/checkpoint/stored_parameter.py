"""StoredParameter: where a checkpoint stores a parameter and what it becomes in memory, found by reading only headers.

Imports no MLX.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_moe.checkpoint.checkpoint import Checkpoint, Piece
from mlx_moe.checkpoint.dtype import Dtype
from mlx_moe.checkpoint.form import Form, StoredArray
from mlx_moe.checkpoint.modes import quantized_bytes
from mlx_moe.checkpoint.parameter import Layout, Parameter
from mlx_moe.checkpoint.quantization import form_of, layout_of
from mlx_moe.checkpoint.recipe import AS_STORED, Recipe
from mlx_moe.config import QuantizationConfig
from mlx_moe.errors import InvalidRequestError, UnsupportedModelError

CUT_NUMBERS = 4 << 20
"""Matrices that are decoded or quantized are read in runs of rows of about so many numbers (16 MiB in float32)."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Rows in a checkpoint's files, and the quantization that they get while they are loaded.

    Equal origins of one checkpoint are equal in memory. `target` None: as they are stored.
    """

    layout: Layout
    form: Form
    target: QuantizationConfig | None = None

    @property
    def quantization(self) -> QuantizationConfig | None:
        """The quantization in memory; None: floats."""
        return self.target or self.form.quantization

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """What must be read."""
        return self.form.arrays(self.layout)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces of all arrays."""
        return tuple(piece for array in self.arrays for piece in array.pieces)

    @property
    def is_derived(self) -> bool:
        """Whether the arrays in memory are computed from those in the files, other than by casting floats."""
        return self.form.is_decoded or self.target is not None or self.layout.offset != 0

    def cut(self) -> Iterator[Origin]:
        """Yield runs of rows that can be read and derived one after the other; all of it if nothing is derived."""
        if not self.is_derived:
            yield self
            return
        for layout in self.layout.cut(max(1, CUT_NUMBERS // self.layout.shape[-1])):
            yield replace(self, layout=layout)


@dataclass(frozen=True, slots=True)
class StoredParameter:
    """A parameter found in a checkpoint."""

    parameter: Parameter
    origin: Origin

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """What must be read."""
        return self.origin.arrays

    @property
    def quantization(self) -> QuantizationConfig | None:
        """The quantization in memory; None: floats."""
        return self.origin.quantization

    @property
    def transposed(self) -> bool:
        """Whether its last two axes must be swapped."""
        return self.origin.layout.transposed

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(array.nbytes for array in self.arrays)

    def memory_bytes(self, float_bytes: int) -> int:
        """Return its bytes in memory if floats of `float_bytes` are used for computing."""
        kept_bytes = Dtype.F32.item_bytes if self.parameter.float32 else float_bytes
        return quantized_bytes(self.origin.layout.count, self.quantization, kept_bytes)


def find(checkpoint: Checkpoint, parameters: Iterable[Parameter], recipe: Recipe = AS_STORED) -> list[StoredParameter]:
    """Find parameters in a checkpoint by reading only its headers.

    The `recipe` quantizes floats, FP8, and matrices that are stored in more bits than it asks for; others stay as they
    are stored.

    Raises:
        CheckpointError: a parameter is missing, or its shape contradicts config.json.
        UnsupportedModelError: a parameter's quantization or dtype is not supported.
    """
    return [_find(checkpoint, parameter, recipe) for parameter in parameters]


def require_effect(directory: Path, stored: Sequence[StoredParameter], recipe: Recipe) -> None:
    """Raise InvalidRequestError if a recipe asks for more bits than are stored, and changes nothing."""
    if any(s.origin.target for s in stored):
        return
    for s in stored:
        wanted, form = recipe.of(s.parameter), s.origin.form
        if wanted is not None and form.quantization is not None and form.quantization.bits < wanted.bits:
            raise already_quantized(directory, form.text)


def already_quantized(directory: Path, how: str) -> InvalidRequestError:
    """Return the error for a model that would stay as it is, although more bits, or other ones, are asked for."""
    return InvalidRequestError(
        f"{directory} is quantized already ({how}): more bits would not bring back what is lost; ask for fewer, for "
        f"none, or take the model that it was made from"
    )


def form_of_most(stored: Iterable[StoredParameter]) -> Form:
    """Return the form in which most numbers of matrices are stored."""
    counts: Counter[Form] = Counter()
    for s in stored:
        if s.parameter.matrix:
            counts[s.origin.form] += s.origin.layout.count
    return max(counts, key=lambda form: counts[form])


def stored_dtype(stored: Iterable[StoredParameter]) -> Dtype:
    """Return the dtype of a checkpoint's norms, in which it is computed unless another one is faster."""
    for s in stored:
        if not s.parameter.matrix and not s.parameter.float32:
            return s.origin.form.float_dtype or Dtype.F32
    return Dtype.F32


def _find(checkpoint: Checkpoint, parameter: Parameter, recipe: Recipe) -> StoredParameter:
    layout = layout_of(checkpoint, parameter)
    first, *others = layout.sources
    form = form_of(checkpoint, parameter, first)
    for source in others:
        if (other := form_of(checkpoint, parameter, source)) != form:
            raise UnsupportedModelError(
                f"{checkpoint.directory}: {source.tensor} is not stored as {first.tensor}: {other.text} and "
                f"{form.text}; experts of one stack must agree"
            )
    return StoredParameter(parameter, Origin(layout, form, _target(parameter, layout, form, recipe)))


def _target(parameter: Parameter, layout: Layout, form: Form, recipe: Recipe) -> QuantizationConfig | None:
    """Return the quantization that a recipe asks for; None if the matrix stays as it is stored."""
    wanted = recipe.of(parameter)
    if wanted is None or layout.shape[-1] % wanted.group_size:
        return None
    return None if form.quantization is not None and form.quantization.bits <= wanted.bits else wanted

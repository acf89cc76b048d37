"""Loading: from parameters to byte ranges of a checkpoint, to arrays in MLX memory.

Only what a shard owns is read, straight into the array that keeps it: peak memory is the shard and one tensor.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_moe.checkpoint import Checkpoint, Piece
from mlx_moe.config import ModelConfig, QuantizationConfig
from mlx_moe.errors import CheckpointError, UnsupportedModelError
from mlx_moe.parameter import Layout, Parameter, Source
from mlx_moe.weights import DenseWeight, LoadedParameters, QuantizedWeight, Weight

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the bytes read so far and the bytes to read."""

_FLOATS = {"F32": mx.float32, "F16": mx.float16, "BF16": mx.bfloat16}
_DTYPES = {**_FLOATS, "U32": mx.uint32, "U8": mx.uint8}


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array as it lies in the files: the pieces, in order, fill `shape` of `dtype`."""

    dtype: mx.Dtype
    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(piece.nbytes for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class StoredParameter:
    """A parameter found in a checkpoint: a plain array, or a quantized matrix with its scales and biases."""

    parameter: Parameter
    transposed: bool
    weight: StoredArray
    scales: StoredArray | None = None
    biases: StoredArray | None = None
    quantization: QuantizationConfig | None = None

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(array.nbytes for array in (self.weight, self.scales, self.biases) if array is not None)

    def memory_bytes(self, dtype: mx.Dtype) -> int:
        """Return the bytes it takes in memory when computing in `dtype`."""
        kept = mx.float32 if self.parameter.float32 else dtype
        total = 0
        for array in (self.weight, self.scales, self.biases):
            if array is not None:
                floating = array.dtype in _FLOATS.values()
                total += array.nbytes // array.dtype.size * (kept.size if floating else array.dtype.size)
        return total


def find(checkpoint: Checkpoint, config: ModelConfig, parameters: Iterable[Parameter]) -> list[StoredParameter]:
    """Find parameters in a checkpoint by its headers alone.

    Raises:
        CheckpointError: one is missing, or its shape, dtype or quantization is not what config.json says.
    """
    return [_find(checkpoint, config, parameter) for parameter in parameters]


def load(
    checkpoint: Checkpoint,
    stored: Sequence[StoredParameter],
    dtype: mx.Dtype,
    progress: Progress | None = None,
) -> LoadedParameters:
    """Read parameters into memory, one after the other, floats cast to `dtype`."""
    total, done = sum(s.nbytes for s in stored), 0
    weights: dict[str, tuple[Weight, bool]] = {}
    vectors: dict[str, mx.array] = {}
    for s in stored:
        kept = mx.float32 if s.parameter.float32 else dtype
        array = _read(checkpoint, s.weight, kept)
        if not s.parameter.matrix:
            vectors[s.parameter.name] = array
        elif s.quantization is None:
            weights[s.parameter.name] = (DenseWeight(array), s.transposed)
        else:
            assert s.scales is not None
            scales = _read(checkpoint, s.scales, kept)
            biases = None if s.biases is None else _read(checkpoint, s.biases, kept)
            weights[s.parameter.name] = (QuantizedWeight(array, scales, biases, s.quantization), s.transposed)
        done += s.nbytes
        if progress is not None:
            progress(done, total)
    return LoadedParameters(weights, vectors)


def stored_dtype(stored: Iterable[StoredParameter]) -> mx.Dtype:
    """Return the dtype a checkpoint computes in: that of its norms."""
    for s in stored:
        if not s.parameter.matrix and not s.parameter.float32:
            return s.weight.dtype
    return mx.float32


def _read(checkpoint: Checkpoint, stored: StoredArray, dtype: mx.Dtype) -> mx.array:
    array = mx.zeros(stored.shape, stored.dtype)
    mx.eval(array)
    checkpoint.read_into(stored.pieces, array)
    if stored.dtype in _FLOATS.values() and stored.dtype != dtype:
        array = array.astype(dtype)
        mx.eval(array)
    return array


def _find(checkpoint: Checkpoint, config: ModelConfig, parameter: Parameter) -> StoredParameter:
    layout = next((lo for lo in parameter.layouts if lo.sources[0].tensor in checkpoint), None)
    if layout is None:
        wanted = " or ".join(lo.sources[0].tensor for lo in parameter.layouts)
        raise CheckpointError(f"{checkpoint.directory}: no tensor {wanted}; the download may be incomplete")
    first = layout.sources[0].tensor
    if parameter.matrix and _sibling(first, "scales") in checkpoint:
        return _find_quantized(checkpoint, config, parameter, layout)
    dtype = checkpoint.info(first).dtype
    if dtype not in _FLOATS:
        raise UnsupportedModelError(
            f"{checkpoint.directory}: tensor {first} has dtype {dtype} without scales; "
            f"supported are {', '.join(_FLOATS)} and MLX's quantized forms"
        )
    weight = _stack(checkpoint, layout, layout.shape[-1], dtype, None)
    return StoredParameter(parameter, layout.transposed, weight)


def _find_quantized(
    checkpoint: Checkpoint, config: ModelConfig, parameter: Parameter, layout: Layout
) -> StoredParameter:
    first = layout.sources[0].tensor
    quantization = _quantization_of(checkpoint, config, layout.sources[0])
    for source in layout.sources[1:]:
        if (other := _quantization_of(checkpoint, config, source)) != quantization:
            raise UnsupportedModelError(
                f"{checkpoint.directory}: {source.tensor} is quantized as {other}, {first} as {quantization}; "
                f"experts of one stack must agree"
            )
    in_features = layout.shape[-1]
    n_groups = in_features // quantization.group_size
    affine = quantization.mode == "affine"
    scales_dtype = checkpoint.info(_sibling(first, "scales")).dtype
    if scales_dtype not in (_FLOATS if affine else ("U8",)):
        raise CheckpointError(
            f"{checkpoint.directory}: {_sibling(first, 'scales')} has dtype {scales_dtype}, "
            f"which {quantization.mode} quantization does not use"
        )
    return StoredParameter(
        parameter,
        layout.transposed,
        _stack(checkpoint, layout, in_features * quantization.bits // 32, "U32", None),
        _stack(checkpoint, layout, n_groups, scales_dtype, "scales"),
        _stack(checkpoint, layout, n_groups, scales_dtype, "biases") if affine else None,
        quantization,
    )


def _quantization_of(checkpoint: Checkpoint, config: ModelConfig, source: Source) -> QuantizationConfig:
    """Return what config.json says of a module, held against the shapes of its tensors."""
    path = source.tensor.removesuffix(".weight")
    said = config.quantization_overrides.get(path, config.quantization)
    if said is None:
        raise CheckpointError(
            f"{checkpoint.directory}: {path} has scales, but config.json says that it is not quantized"
        )
    in_features = source.shape[-1]
    packed, groups = (
        checkpoint.info(source.tensor).shape[-1:],
        checkpoint.info(_sibling(source.tensor, "scales")).shape[-1:],
    )
    if (packed, groups) != ((in_features * said.bits // 32,), (in_features // said.group_size,)):
        raise CheckpointError(
            f"{checkpoint.directory}: {path} has {packed} words and {groups} groups a row of {in_features} inputs, "
            f"which is not {said.bits} bits in groups of {said.group_size} as config.json says"
        )
    return said


def _stack(checkpoint: Checkpoint, layout: Layout, width: int, dtype: str, sibling: str | None) -> StoredArray:
    """Return the array that a layout's sources (or their scales or biases) make, rows of `width` numbers."""
    pieces: list[Piece] = []
    for source in layout.sources:
        name = source.tensor if sibling is None else _sibling(source.tensor, sibling)
        if name not in checkpoint:
            raise CheckpointError(f"{checkpoint.directory}: no tensor {name}; the download may be incomplete")
        info = checkpoint.info(name)
        if info.dtype != dtype or info.shape != (*source.shape[:-1], width):
            raise CheckpointError(
                f"{info.path}: tensor {name} is {info.dtype} {list(info.shape)}, config.json asks for "
                f"{dtype} {[*source.shape[:-1], width]}"
            )
        row_bytes = width * _DTYPES[dtype].size
        pieces += [Piece(name, rows.start * row_bytes, len(rows) * row_bytes) for rows in source.rows]
    return StoredArray(_DTYPES[dtype], (*layout.shape[:-1], width), tuple(pieces))


def _sibling(tensor: str, name: str) -> str:
    return f"{tensor.removesuffix('.weight')}.{name}"

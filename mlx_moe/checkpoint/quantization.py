"""Quantization: how a checkpoint's matrices are quantized, derived from their headers.

config.json's quantization section is not used: some conversions leave a wrong one, others omit it, and the shapes of
packed words and scales determine the quantization completely. Reads only headers.
"""

from __future__ import annotations

import shlex

from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.dtype import FLOATS, Dtype
from mlx_moe.checkpoint.parameter import Layout, Parameter, Source
from mlx_moe.config import QuantizationConfig
from mlx_moe.errors import CheckpointError, UnsupportedModelError

WORD_BITS = 32

_FOREIGN = {
    ".weight_scale_inv": "FP8",
    ".weight_packed": "compressed-tensors",
    ".weight_scale": "compressed-tensors",
    ".qweight": "GPTQ or AWQ",
    ".weight.absmax": "bitsandbytes",
    ".SCB": "bitsandbytes",
}
"""Quantizations of other libraries, by the suffix of a tensor that is stored beside or instead of a matrix."""


def sibling(tensor: str, name: str) -> str:
    """Return the name of the tensor with a matrix's `scales` or `biases`."""
    return f"{tensor.removesuffix('.weight')}.{name}"


def is_packed(checkpoint: Checkpoint, tensor: str) -> bool:
    """Whether a matrix is stored in one of MLX's quantized forms."""
    return (
        sibling(tensor, "scales") in checkpoint and tensor in checkpoint and checkpoint.info(tensor).dtype == Dtype.U32
    )


def is_readable(checkpoint: Checkpoint, layout: Layout) -> bool:
    """Whether all tensors of a layout are stored, in a supported format."""
    return all(_is_readable(checkpoint, source) for source in layout.sources)


def quantization_of(checkpoint: Checkpoint, source: Source) -> QuantizationConfig:
    """Return the quantization of a packed matrix.

    Raises:
        CheckpointError: the numbers of its words and scales do not match its number of inputs.
        UnsupportedModelError: the quantization is not supported.
    """
    scales = checkpoint.info(sibling(source.tensor, "scales"))
    inputs, words, groups = source.shape[-1], checkpoint.info(source.tensor).shape[-1:], scales.shape[-1:]
    n_words, n_groups = (words or (0,))[0], (groups or (0,))[0]
    if not n_words or not n_groups or inputs % n_groups or n_words * WORD_BITS % inputs:
        raise CheckpointError(
            f"{checkpoint.directory}: {source.tensor} has {n_words} words and {n_groups} scales for a row of {inputs} "
            f"inputs, which no number of bits makes; download it again"
        )
    found = QuantizationConfig(inputs // n_groups, n_words * WORD_BITS // inputs, _mode(checkpoint, source.tensor))
    if found.mode == "affine":
        is_run = found.bits in (2, 3, 4, 5, 6, 8) and found.group_size in (32, 64, 128)
    else:
        is_run = (found.mode, found.bits, found.group_size) == ("mxfp4", 4, 32)
    if not is_run:
        raise UnsupportedModelError(
            f"{checkpoint.directory}: {source.tensor} is quantized to {found.bits} bits in groups of "
            f"{found.group_size} ({found.mode}); supported are affine (2, 3, 4, 5, 6, 8 bits in groups of 32, 64, 128) "
            f"and mxfp4"
        )
    return found


def unreadable(checkpoint: Checkpoint, parameter: Parameter) -> CheckpointError:
    """Return the error for a parameter that is missing or stored in an unsupported format.

    Its message has the cure, as a command if there is one.
    """
    tensors = [source.tensor for layout in parameter.layouts for source in layout.sources]
    stored = next((tensor for tensor in tensors if tensor in checkpoint), None)
    paths = [tensor.removesuffix(".weight") for tensor in tensors]
    foreign = next((name for end, name in _FOREIGN.items() for path in paths if path + end in checkpoint), None)
    if foreign is None and stored is None:
        return checkpoint.absence(*(layout.sources[0].tensor for layout in parameter.layouts))
    if foreign is None and stored is not None and checkpoint.info(stored).dtype == Dtype.U32:
        return checkpoint.absence(sibling(stored, "scales"))
    what = f"tensor {stored or tensors[0]}" + ("" if stored is None else f" has dtype {checkpoint.info(stored).dtype}")
    how = "" if foreign is None else f": {foreign} quantization"
    return UnsupportedModelError(
        f"{checkpoint.directory}: {what}{how}, which is not run; supported are {', '.join(FLOATS)} and MLX's affine "
        f"and mxfp4; {_cure(checkpoint, foreign)}"
    )


def _is_readable(checkpoint: Checkpoint, source: Source) -> bool:
    if source.tensor not in checkpoint:
        return False
    info = checkpoint.info(source.tensor)
    return (info.dtype in FLOATS and info.shape == source.shape) or is_packed(checkpoint, source.tensor)


def _mode(checkpoint: Checkpoint, tensor: str) -> str:
    dtype = checkpoint.info(sibling(tensor, "scales")).dtype
    if sibling(tensor, "biases") in checkpoint:
        return "affine" if dtype in FLOATS else dtype
    if dtype in FLOATS:
        raise checkpoint.absence(sibling(tensor, "biases"))
    return "mxfp4" if dtype == Dtype.U8 else dtype


def _cure(checkpoint: Checkpoint, foreign: str | None) -> str:
    if foreign == "bitsandbytes":
        return "take the unquantized original, or a conversion of it for MLX"
    source = checkpoint.directory
    fewer_bits = "" if foreign in ("GPTQ or AWQ", "compressed-tensors") else " -q"
    return (
        f"convert it (pip install mlx-lm): mlx_lm.convert --hf-path {shlex.quote(str(source))}{fewer_bits} "
        f"--mlx-path {shlex.quote(f'{source.name}-mlx')}"
    )

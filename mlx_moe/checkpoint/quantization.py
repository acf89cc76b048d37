"""Quantization: recognises the form in which a checkpoint stores its matrices, by names, dtypes and shapes.

config.json's quantization section is not used where headers suffice: some conversions leave a wrong one, others omit
it. Only the size of FP8's blocks is taken from it, and compared with the shapes. Reads only headers.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.dtype import FLOATS, Dtype
from mlx_moe.checkpoint.form import BLOCKS, Float8Blocks, Floats, Form, MXFP4Blocks, Packed, PackedInt4, sibling
from mlx_moe.checkpoint.modes import SUPPORTED, WORD_BITS, float_mode, is_supported
from mlx_moe.checkpoint.parameter import Layout, Parameter, Source
from mlx_moe.config import QuantizationConfig
from mlx_moe.errors import CheckpointError, UnsupportedModelError

FP8_BLOCK = [128, 128]
"""Rows and columns of a block where config.json has no `weight_block_size`."""

MAX_BLOCK = 1 << 20
"""Most rows or columns of a block."""

_VARIANTS = {
    ".weight_zero_point": "asymmetric compressed-tensors",
    ".weight_g_idx": "reordered compressed-tensors",
    ".global_scale": "nvfp4 with a global scale",
}
"""Variants of supported forms that are not read, by the suffix of a tensor that tells them apart."""

_FOREIGN = _VARIANTS | {
    ".weight_scale": "compressed-tensors",
    ".weight_packed": "compressed-tensors",
    ".qweight": "GPTQ or AWQ",
    ".weight.absmax": "bitsandbytes",
    ".SCB": "bitsandbytes",
}
"""Quantizations that are not read, by the suffix of a tensor that is stored beside or instead of a matrix."""


def is_readable(checkpoint: Checkpoint, layout: Layout) -> bool:
    """Whether all tensors of a layout are stored, in a supported form."""
    return _has_sign(checkpoint, layout) and all(_is_readable(checkpoint, source) for source in layout.sources)


def layout_of(checkpoint: Checkpoint, parameter: Parameter) -> Layout:
    """Return the layout in which a parameter is stored. Raises as `form_of` if it is stored in none."""
    for layout in parameter.layouts:
        if _has_sign(checkpoint, layout) and _scales(checkpoint, layout.sources[0].tensor) is not None:
            return layout
    raise _refusal(checkpoint, list(dict.fromkeys(layout.sources[0].tensor for layout in parameter.layouts)))


def form_of(checkpoint: Checkpoint, parameter: Parameter, source: Source) -> Form:
    """Return the form in which a source of a parameter is stored. All its tensors are checked.

    Raises:
        CheckpointError: a tensor is missing, or its dtype or shape contradicts config.json.
        UnsupportedModelError: the form is not supported.
    """
    scales = _scales(checkpoint, source.tensor)
    if scales is None or (scales and not parameter.matrix):
        raise _refusal(checkpoint, [source.tensor])
    form = _form(checkpoint, source, scales) if scales else Floats(Dtype[checkpoint.info(source.tensor).dtype])
    for part in form.parts(source):
        info = checkpoint.info(part.name)
        if info.dtype != part.dtype or info.shape != part.shape:
            raise CheckpointError(
                f"{info.path}: tensor {part.name} is {info.dtype} {list(info.shape)}, config.json asks for "
                f"{part.dtype} {list(part.shape)}" + (f" ({form.text})" if scales else "")
            )
    return form


def _has_sign(checkpoint: Checkpoint, layout: Layout) -> bool:
    sign = layout.sign
    return sign is None or (sign.tensor in checkpoint and checkpoint.info(sign.tensor).shape == sign.shape)


def _is_readable(checkpoint: Checkpoint, source: Source) -> bool:
    scales = _scales(checkpoint, source.tensor)
    return scales in checkpoint if scales else scales == "" and checkpoint.info(source.tensor).shape == source.shape


def _scales(checkpoint: Checkpoint, tensor: str) -> str | None:
    """Return the name of a matrix' scales, "" for plain floats; None: it is not stored, or in no supported form."""
    path = tensor.removesuffix(".weight")
    for end in _VARIANTS:
        if path + end in checkpoint:
            return None
    if f"{tensor}_packed" in checkpoint:
        return f"{tensor}_scale"
    if tensor not in checkpoint:
        return None
    dtype = checkpoint.info(tensor).dtype
    if dtype in FLOATS:
        return ""
    if dtype == Dtype.U32:
        return sibling(tensor, "scales")
    if dtype == Dtype.U8 and tensor.endswith(BLOCKS):
        return f"{tensor.removesuffix(BLOCKS)}_scales"
    if dtype == Dtype.F8_E4M3 and f"{tensor}_scale" not in checkpoint:
        return f"{tensor}_scale_inv"
    return None


def _form(checkpoint: Checkpoint, source: Source, scales: str) -> Form:
    """Return the form of a matrix that has scales."""
    if f"{source.tensor}_packed" in checkpoint:
        return PackedInt4(_int4_group(checkpoint, source), _float(checkpoint, scales))
    dtype = checkpoint.info(source.tensor).dtype
    if dtype == Dtype.U8:
        return MXFP4Blocks()
    if dtype == Dtype.F8_E4M3:
        return Float8Blocks(*_fp8_block(checkpoint), _float(checkpoint, scales))
    return Packed(_quantization(checkpoint, source), Dtype[checkpoint.info(scales).dtype])


def _quantization(checkpoint: Checkpoint, source: Source) -> QuantizationConfig:
    """Return the quantization of a matrix that MLX packed."""
    scales = checkpoint.info(sibling(source.tensor, "scales"))
    inputs, words, groups = source.shape[-1], checkpoint.info(source.tensor).shape[-1:], scales.shape[-1:]
    n_words, n_groups = (words or (0,))[0], (groups or (0,))[0]
    if not n_words or not n_groups or inputs % n_groups or n_words * WORD_BITS % inputs:
        raise CheckpointError(
            f"{checkpoint.directory}: {source.tensor} has {n_words} words and {n_groups} scales for a row of {inputs} "
            f"inputs, which no number of bits makes; download it again"
        )
    group_size, bits = inputs // n_groups, n_words * WORD_BITS // inputs
    found = QuantizationConfig(group_size, bits, _mode(checkpoint, source.tensor, group_size, bits))
    if not is_supported(found):
        raise UnsupportedModelError(
            f"{checkpoint.directory}: {source.tensor} is quantized to {found.bits} bits in groups of "
            f"{found.group_size} ({found.mode}); supported are {SUPPORTED}"
        )
    return found


def _mode(checkpoint: Checkpoint, tensor: str, group_size: int, bits: int) -> str:
    dtype = checkpoint.info(sibling(tensor, "scales")).dtype
    if sibling(tensor, "biases") in checkpoint:
        return "affine" if dtype in FLOATS else dtype
    if dtype in FLOATS:
        raise checkpoint.absence(sibling(tensor, "biases"))
    return (float_mode(group_size, bits) if dtype == Dtype.U8 else None) or dtype


def _int4_group(checkpoint: Checkpoint, source: Source) -> int:
    """Return the group size of a matrix that compressed-tensors packed. Its bits and groups follow from its shapes."""
    words, scales = checkpoint.info(f"{source.tensor}_packed"), checkpoint.info(f"{source.tensor}_scale")
    inputs, n_words, n_groups = source.shape[-1], (words.shape or (0,))[-1], (scales.shape or (0,))[-1]
    if n_words * WORD_BITS != 4 * inputs or not n_groups or inputs % n_groups:
        raise UnsupportedModelError(
            f"{checkpoint.directory}: {words.name} has {n_words} words and {n_groups} scales for a row of {inputs} "
            f"inputs; of compressed-tensors, 4 bits in equal groups are supported; {_cure()}"
        )
    return inputs // n_groups


def _fp8_block(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return the rows and columns of FP8's blocks."""
    section = checkpoint.config.get("quantization_config")
    block = section.get("weight_block_size", FP8_BLOCK) if isinstance(section, dict) else FP8_BLOCK
    is_pair = isinstance(block, list) and len(block) == 2
    if not is_pair or not all(type(size) is int and 1 <= size <= MAX_BLOCK for size in block):
        raise CheckpointError(
            f"{checkpoint.directory / 'config.json'}: quantization_config.weight_block_size must be two integers from "
            f"1 to {MAX_BLOCK}, got {str(block)[:80]}"
        )
    return block[0], block[1]


def _float(checkpoint: Checkpoint, scales: str) -> Dtype:
    """Return the dtype of scales that must be floats."""
    info = checkpoint.info(scales)
    if info.dtype not in FLOATS:
        raise CheckpointError(f"{info.path}: tensor {scales} has dtype {info.dtype}, wanted {' or '.join(FLOATS)}")
    return Dtype[info.dtype]


def _refusal(checkpoint: Checkpoint, tensors: Sequence[str]) -> CheckpointError:
    """Return the error for a matrix that is stored as none of `tensors`, or in an unsupported form, with the cure."""
    stored = next((tensor for tensor in tensors if tensor in checkpoint), None)
    ends = ((path, end) for path in (tensor.removesuffix(".weight") for tensor in tensors) for end in _FOREIGN)
    foreign = next((_FOREIGN[end] for path, end in ends if path + end in checkpoint), None)
    if foreign is None and stored is None:
        return checkpoint.absence(*tensors)
    what = f"tensor {stored or tensors[0]}" + ("" if stored is None else f" has dtype {checkpoint.info(stored).dtype}")
    how = "" if foreign is None else f": {foreign} quantization"
    return UnsupportedModelError(
        f"{checkpoint.directory}: {what}{how}, which is not supported; supported are {', '.join(FLOATS)}, DeepSeek's "
        f"FP8, compressed-tensors' symmetric int4, gpt-oss' MXFP4, and of MLX {SUPPORTED}; {_cure()}"
    )


def _cure() -> str:
    return (
        "take the original model, which is quantized while it is loaded: moe-cluster up ORIGINAL --bits 4 "
        "(ORIGINAL is the repository that this one was made from)"
    )

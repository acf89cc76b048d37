"""Modes: the quantizations with which MLX computes, and the bytes that they take. Imports no MLX."""

from __future__ import annotations

from mlx_moe.checkpoint.recipe import MODES
from mlx_moe.config import QuantizationConfig

WORD_BITS = 32
"""Quantized numbers are packed into words of this size."""

SUPPORTED = "affine (2, 3, 4, 5, 6, 8 bits in groups of 32, 64, 128), mxfp4, nvfp4 and mxfp8"


def is_supported(quantization: QuantizationConfig) -> bool:
    """Whether MLX computes with a quantization."""
    mode = MODES.get(quantization.mode)
    return mode is not None and quantization.bits in mode.bits and quantization.group_size in mode.group_sizes


def float_mode(group_size: int, bits: int) -> str | None:
    """Return the mode of floats with 8-bit scales that has these groups; None: there is none."""
    modes = (name for name in ("mxfp4", "nvfp4", "mxfp8") if is_supported(QuantizationConfig(group_size, bits, name)))
    return next(modes, None)


def quantization_text(quantization: QuantizationConfig) -> str:
    """Return "4 bits in groups of 64", with the mode if it is not affine."""
    q = quantization
    return f"{q.bits} bits in groups of {q.group_size}" + ("" if q.mode == "affine" else f" ({q.mode})")


def quantized_bytes(count: int, quantization: QuantizationConfig | None, float_bytes: int) -> int:
    """Return the bytes of `count` numbers in memory, floats (and affine scales and biases) having `float_bytes`."""
    q = quantization
    if q is None:
        return count * float_bytes
    return count * q.bits // 8 + count // q.group_size * (2 * float_bytes if q.mode == "affine" else 1)

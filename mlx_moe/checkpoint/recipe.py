"""Recipe: how matrices are quantized while a checkpoint is loaded or converted. Knows no files and no MLX."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.config import QuantizationConfig
from mlx_moe.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Recipe:
    """The quantization of routed experts and of all other matrices; None: as they are stored.

    Routers, norms and correction biases are never quantized, nor are matrices whose rows are no multiple of the group.
    """

    experts: QuantizationConfig | None = None
    others: QuantizationConfig | None = None

    def of(self, parameter: Parameter) -> QuantizationConfig | None:
        """Return the quantization of a parameter; None: as it is stored."""
        wanted = self.experts if parameter.routed else self.others
        if wanted is None or not parameter.matrix or parameter.float32:
            return None
        return None if parameter.layouts[0].shape[-1] % wanted.group_size else wanted


AS_STORED = Recipe()


@dataclass(frozen=True, slots=True)
class Mode:
    """The numbers of bits and the group sizes that a mode of MLX has, the default first."""

    bits: tuple[int, ...]
    group_sizes: tuple[int, ...]


MODES = {
    "affine": Mode((4, 2, 3, 5, 6, 8), (64, 32, 128)),
    "mxfp4": Mode((4,), (32,)),
    "nvfp4": Mode((4,), (16,)),
    "mxfp8": Mode((8,), (32,)),
}
"""Source: the documentation of `mlx.core.quantize`; affine without 1 bit."""

MIXED_BITS = 6
"""Bits of the matrices of a mixed recipe that are no routed experts: few bytes, and every token uses them all."""


def uniform(bits: int | None, mode: str | None = None, group_size: int | None = None) -> Recipe:
    """Return the recipe that quantizes all matrices alike; None: the mode's default.

    Raises:
        InvalidRequestError: MLX has no such quantization; the message has those of the mode.
    """
    how = _quantization(bits, mode or "affine", group_size)
    return Recipe(how, how)


def mixed(bits: int | None, mode: str | None = None, group_size: int | None = None) -> Recipe:
    """Return the recipe that quantizes routed experts as asked, and all other matrices to MIXED_BITS, affine.

    Raises:
        InvalidRequestError: as `uniform`; or the experts would not get fewer bits than the rest.
    """
    how = _quantization(bits, mode or "affine", group_size)
    if how.bits >= MIXED_BITS:
        raise InvalidRequestError(
            f"the recipe mixed gives all but the routed experts {MIXED_BITS} bits: ask for fewer than {MIXED_BITS} "
            f"bits for the experts, got {how.bits}; without this recipe all have {how.bits}"
        )
    return Recipe(how, _quantization(MIXED_BITS, "affine", how.group_size if how.mode == "affine" else None))


def _quantization(bits: int | None, mode: str, group_size: int | None) -> QuantizationConfig:
    if mode not in MODES:
        raise InvalidRequestError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    known = MODES[mode]
    found = QuantizationConfig(group_size or known.group_sizes[0], bits or known.bits[0], mode)
    if found.bits not in known.bits or found.group_size not in known.group_sizes:
        raise InvalidRequestError(
            f"{mode} supports {_choice(known.bits)} bits in groups of {_choice(known.group_sizes)}, got "
            f"{found.bits} bits in groups of {found.group_size}"
        )
    return found


def _choice(numbers: tuple[int, ...]) -> str:
    """Return "4", or "2, 3 or 4"."""
    *first, last = map(str, sorted(numbers))
    return f"{', '.join(first)} or {last}" if first else last

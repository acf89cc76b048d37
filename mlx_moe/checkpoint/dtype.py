"""Dtype: the number formats in safetensors headers, and their sizes. `loader` knows which of them MLX has."""

from __future__ import annotations

from enum import StrEnum


class Dtype(StrEnum):
    """A number format, equal to its name in a header. For unknown formats only a tensor's location is checked."""

    item_bytes: int

    def __new__(cls, name: str, item_bytes: int) -> Dtype:
        """Return a member that equals its name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.item_bytes = item_bytes
        return member

    BOOL = "BOOL", 1
    U8 = "U8", 1
    I8 = "I8", 1
    F8_E5M2 = "F8_E5M2", 1
    F8_E4M3 = "F8_E4M3", 1
    F8_E8M0 = "F8_E8M0", 1
    U16 = "U16", 2
    I16 = "I16", 2
    F16 = "F16", 2
    BF16 = "BF16", 2
    U32 = "U32", 4
    I32 = "I32", 4
    F32 = "F32", 4
    U64 = "U64", 8
    I64 = "I64", 8
    F64 = "F64", 8


FLOATS = (Dtype.F32, Dtype.F16, Dtype.BF16)
"""Formats of tensors that are not quantized."""

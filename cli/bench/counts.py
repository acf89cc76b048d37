"""Counts: lists of whole numbers in an option, like 1,2,4."""

from __future__ import annotations

from mlx_moe.errors import InvalidRequestError

MOST = 1 << 16


def counts(option: str, text: str) -> tuple[int, ...]:
    """Read "1,2,4". Raises InvalidRequestError that names the option."""
    values = tuple(int(part) if part.isascii() and part.isdecimal() else 0 for part in text.split(","))
    if not all(0 < value <= MOST for value in values):
        raise InvalidRequestError(f"{option} takes whole numbers from 1 to {MOST} like 1,2,4; got {text[:40]!r}")
    return values

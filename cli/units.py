"""Numbers and units for display."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlx_moe.units import scaled

if TYPE_CHECKING:
    from mlx_moe.decoding.request import GenerationStats


def count_text(count: int) -> str:
    """Return a count as "671.0 B", "3.1 M" or "812"."""
    return scaled(count, (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)), "")


def tokens_text(count: int) -> str:
    """Return a context length as "310", "3.1k" or "32k"; powers of two stay round."""
    if count < 1000:
        return str(count)
    unit = 1024 if count % 1024 == 0 else 1000
    return f"{count / unit:.1f}".removesuffix(".0") + "k"


def rate_text(per_s: float) -> str:
    """Return a rate with three significant digits: "5.37 tok/s", "23.1 tok/s", "480 tok/s"."""
    digits = 2 if per_s < 10 else 1 if per_s < 100 else 0
    return f"{per_s:.{digits}f} tok/s"


def duration_text(seconds: float) -> str:
    """Return "24 ms", "0.2 s", "12 s", "3 min 20 s" or "24 h"."""
    if seconds < 0.1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        minutes, rest = divmod(int(seconds), 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{seconds / 3600:.1f}".removesuffix(".0") + " h"


def age_text(seconds: float) -> str:
    """Return how long ago something was: "just now", "5 min ago", "3 h ago", "12 d ago"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit} ago"
    return "just now"


def span_text(numbers: range) -> str:
    """Return consecutive numbers, such as layers, as "0-8" or "4"."""
    return str(numbers.start) if len(numbers) == 1 else f"{numbers.start}-{numbers.stop - 1}"


def waited_text(stats: GenerationStats) -> str:
    """Return the line that says that an answer waited while a lost part of the model was loaded elsewhere."""
    return f"{stats.waited_for}; the answer waited {duration_text(stats.waited_s)} and continued"

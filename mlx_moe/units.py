"""Units: numbers as text with a unit, for messages and tables."""

from __future__ import annotations


def bytes_text(count: int) -> str:
    """Return bytes in decimal units, such as "378.1 GB"."""
    return scaled(count, (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)), "B")


def scaled(count: int, units: tuple[tuple[str, int], ...], rest: str) -> str:
    """Return a count in the first of the units that it reaches, or as it is with the unit `rest`."""
    for unit, size in units:
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} {rest}".strip()

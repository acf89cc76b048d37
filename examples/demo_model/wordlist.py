"""Word lists, written as one string each."""

from __future__ import annotations


def words(text: str) -> list[str]:
    """Return the words of a text without commas."""
    return text.split()


def phrases(text: str) -> list[str]:
    """Return the phrases of a text, which commas separate."""
    return text.split(",")

"""Draft: how the tokens of an answer are guessed ahead, by name. Knows no MLX: who only counts memory asks here too.

A draft is "mtp", "ngram", "none", or a small model to load; "" is the best that the checkpoint offers.
"""

from __future__ import annotations


def wants_mtp(draft: str) -> bool:
    """Return whether the MTP layer, where the checkpoint has one, drafts and must be in memory."""
    return draft in ("", "mtp")

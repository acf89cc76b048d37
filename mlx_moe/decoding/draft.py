"""Draft: the names of the ways to draft tokens. Imports no MLX, because planning needs it too.

A draft is "mtp", "ngram", "none", or a small model to load; "" is the best that the checkpoint supports.
"""

from __future__ import annotations


def wants_mtp(draft: str) -> bool:
    """Return whether the checkpoint's MTP layer, if it has one, drafts and must be in memory."""
    return draft in ("", "mtp")

"""Paths as people type them in the chat: with ~, with spaces, between quotes."""

from __future__ import annotations

from pathlib import Path

from mlx_moe.errors import InvalidRequestError


def typed_path(text: str) -> Path:
    """Return the path that was typed. Raises InvalidRequestError for one that no file can have."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    try:
        path = Path(text).expanduser()
        path.exists()  # a name that is too long, for one
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidRequestError(f"{text[:80]!r} is not a path: {error}") from error
    return path.absolute()

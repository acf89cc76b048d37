"""Paths typed in the chat: with ~, spaces or quotes."""

from __future__ import annotations

from pathlib import Path

from mlx_moe.errors import InvalidRequestError


def typed_path(text: str) -> Path:
    """Return the typed path. Raises InvalidRequestError for an invalid path."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    try:
        path = Path(text).expanduser()
        path.exists()  # raises for a name that is too long
    except (OSError, RuntimeError, ValueError) as error:
        raise InvalidRequestError(f"{text[:80]!r} is not a path: {error}") from error
    return path.absolute()

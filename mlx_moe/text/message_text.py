"""The text of a message, for what is written without a template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_moe.errors import InvalidRequestError


def message_text(message: Mapping[str, Any], key: str = "content") -> str:
    """Return the content, or the text of another key: "" if it has none, its parts joined if it is a list of them.

    Raises:
        InvalidRequestError: it is not text.
    """
    content = message.get(key)
    parts = [part.get("text") if isinstance(part, Mapping) else part for part in _listed(content)]
    if not all(isinstance(part, str) for part in parts):
        raise InvalidRequestError(f"the {key} of a message must be text, got {str(content)[:80]}")
    return "".join(map(str, parts))


def _listed(content: Any) -> list[Any]:
    if content is None:
        return []
    return content if isinstance(content, list) else [content]

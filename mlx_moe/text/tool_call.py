"""A tool call of an earlier turn, as clients send it back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.dialects import Called


def called(call: Any) -> Called:
    """Return the name and the arguments' text of a call in the form of OpenAI's API. Raises InvalidRequestError."""
    function = call.get("function", call) if isinstance(call, Mapping) else {}
    function = function if isinstance(function, Mapping) else {}
    name, arguments = function.get("name"), function.get("arguments") or "{}"
    try:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        is_object = isinstance(json.loads(text), dict)
    except (TypeError, ValueError, RecursionError):
        is_object = False
    if not (isinstance(name, str) and name and is_object):
        raise InvalidRequestError(
            f"a tool call must have a function with a name and a JSON object of arguments, got {str(call)[:80]}"
        )
    return name, text

"""Tools: the definitions that a request gives a model, and the types that they declare for arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from mlx_moe.text.dialects.json_scan import parse

Definition: TypeAlias = Mapping[str, Any]
"""As in OpenAI's API: {"type": "function", "function": {"name": …, "parameters": JSON schema}}."""

_CHOICES = ("anyOf", "oneOf", "allOf")


class Tools:
    """The tools of one request by name. A definition without a name is ignored."""

    def __init__(self, definitions: Sequence[Definition] = ()) -> None:
        functions = [_mapping(definition).get("function", definition) for definition in definitions]
        self._schemas = {
            function["name"]: _mapping(_mapping(function.get("parameters")).get("properties"))
            for function in functions
            if isinstance(function, Mapping) and isinstance(function.get("name"), str)
        }

    def __contains__(self, name: str) -> bool:
        return name in self._schemas

    def __bool__(self) -> bool:
        return bool(self._schemas)

    def arguments(self, name: str, texts: Mapping[str, str]) -> str:
        """Return as JSON the arguments that a model wrote as plain texts, for dialects that do not quote strings.

        A text is a string where the tool declares one. Otherwise it is JSON if it can be read as such, else a string.
        """
        schema = self._schemas.get(name, {})
        return joined({key: _value(text, _types(schema.get(key))) for key, text in texts.items()})


def joined(values: Mapping[str, str]) -> str:
    """Return the JSON object of values that are JSON already."""
    return "{" + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in values.items()) + "}"


def json_or_string(text: str) -> str:
    """Return a text as it is if it is JSON, else as a JSON string."""
    try:
        parse(text)
    except ValueError:
        return json.dumps(text, ensure_ascii=False)
    return text.strip()


def _value(text: str, types: frozenset[str]) -> str:
    if "string" in types and not (text.strip() == "null" and "null" in types):
        return json.dumps(text, ensure_ascii=False)
    if "boolean" in types and text.strip() in ("True", "False"):  # as Python writes them
        return text.strip().lower()
    return json_or_string(text)


def _types(schema: Any) -> frozenset[str]:
    """Return the types that a schema allows, empty if it does not say."""
    schema = _mapping(schema)
    declared = schema.get("type")
    types = {declared} if isinstance(declared, str) else set(declared if isinstance(declared, list) else ())
    types |= {"string"} if any(isinstance(value, str) for value in schema.get("enum") or ()) else set()
    for choice in _CHOICES:
        for option in schema.get(choice) or ():
            types |= _types(option)
    return frozenset(str(kind) for kind in types)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}

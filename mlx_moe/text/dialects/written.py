"""Calls written as a model writes them, for chat templates that do not do it, and to tell a model how."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TypeAlias

from mlx_moe.text.dialects.json_scan import parse

Called: TypeAlias = tuple[str, str]
"""The name of a tool and its arguments, a JSON object as text."""

Writer: TypeAlias = Callable[[Sequence[Called]], str]
"""Returns the text of calls that follow each other."""


def in_json(begin: str, key: str, end: str, between: str) -> Writer:
    """Return a writer of calls that are JSON objects with a name and, by `key`, arguments."""

    def write(calls: Sequence[Called]) -> str:
        written = (f'{begin}{{"name": {_quoted(name)}, "{key}": {arguments}}}{end}' for name, arguments in calls)
        return between.join(written)

    return write


def in_tags(begin: str, call: str, argument: str, call_end: str, end: str) -> Writer:
    """Return a writer of calls with a tag for each argument, by formats with {name}, {key}, {value} and {is_string}.

    A value that is a string is written without quotes, any other as JSON.
    """

    def write(calls: Sequence[Called]) -> str:
        lines = [begin]
        for name, arguments in calls:
            lines.append(call.format(name=name))
            for key, value in dict(parse(arguments)).items():
                is_string = isinstance(value, str)
                text = value if is_string else json.dumps(value, ensure_ascii=False)
                lines.append(argument.format(key=key, value=text, is_string="true" if is_string else "false"))
            lines.append(call_end)
        return "\n".join(line for line in (*lines, end) if line)

    return write


def _quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)

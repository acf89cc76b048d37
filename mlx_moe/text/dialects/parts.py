"""Parts: what an answer consists of: reasoning, content, tool calls, and the markup between them.

The `source` of a part is the text of the answer that it was read from: all sources joined are the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what the model thinks before it answers."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer itself. `source` is empty for a paragraph break that replaces markup."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A complete call of a tool.

    Attributes:
        index: its place among the answer's calls, from 0.
        arguments: a JSON object as text, as the model wrote it where its dialect is JSON.
        id: the id that the model gave it, "" if its dialect has none.
    """

    index: int
    name: str
    arguments: str
    id: str
    source: str


@dataclass(frozen=True, slots=True)
class Markup:
    """Tags and the line breaks around them, which have no meaning beyond the parts that they separate."""

    source: str


Part: TypeAlias = Reasoning | Content | ToolCall | Markup

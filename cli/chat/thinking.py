"""Thinking: separates what a model thinks from its answer, by the dialect in which it was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_moe.text.dialects import Content, Dialect, Reasoning, ToolCall, named
from mlx_moe.text.thought import ThoughtMarkers

PLAIN = named("plain", ThoughtMarkers())


@dataclass(frozen=True, slots=True)
class ThoughtAndAnswer:
    """The two parts of an answer's text, without the marks around them. Calls of tools stay as the model wrote them."""

    thinking: str
    answer: str


def split_thinking(text: str, dialect: Dialect) -> ThoughtAndAnswer:
    """Split the text of an answer so far."""
    thinking, answer = [], []
    for part in dialect.split(text):
        match part:
            case Reasoning():
                thinking.append(part.text)
            case Content():
                answer.append(part.text)
            case ToolCall():
                answer.append(part.source)
    return ThoughtAndAnswer("".join(thinking), "".join(answer))


def saved_dialect(dialect: Dialect) -> dict[str, Any]:
    """Return how a dialect is saved with an answer: its name, unless it is plain, and the markers around a thought."""
    name = {} if dialect.name == PLAIN.name else {"dialect": dialect.name}
    return {**name, "thinking": [dialect.markers.open, dialect.markers.close]}


def dialect_from(saved: Mapping[str, Any]) -> Dialect:
    """Return the dialect of a saved answer; the usual one if none was saved. Raises ValueError."""
    name, markers = saved.get("dialect", PLAIN.name), saved.get("thinking", [PLAIN.markers.open, PLAIN.markers.close])
    if not isinstance(name, str):
        raise ValueError('"dialect" is not text')
    if (
        not isinstance(markers, list)
        or len(markers) != 2
        or not all(isinstance(text, str) and text for text in markers)
    ):
        raise ValueError('"thinking" is not two markers')
    return named(name, ThoughtMarkers(*markers))

"""Thinking: separates the thought that some models write from the answer after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mlx_moe.text.thought import ThoughtMarkers

USUAL = ThoughtMarkers()


@dataclass(frozen=True, slots=True)
class ThoughtAndAnswer:
    """The two parts of an answer's text; `answer` begins at `answer_start`, None while the model thinks."""

    thinking: str
    answer: str
    answer_start: int | None


def split_thinking(text: str, markers: ThoughtMarkers = USUAL, ended: bool = True) -> ThoughtAndAnswer:
    """Split the text of an answer so far. Unless it `ended`, what may become a marker is left out."""
    body = text.lstrip()
    if not body.startswith(markers.open):
        if not ended and markers.open.startswith(body):
            return ThoughtAndAnswer("", "", 0)
        return ThoughtAndAnswer("", text, 0)
    start = len(text) - len(body) + len(markers.open)
    close = text.find(markers.close, start)
    if close < 0:
        thinking = text[start:]
        return ThoughtAndAnswer(thinking if ended else _without_beginning_of(markers.close, thinking), "", None)
    end = close + len(markers.close)
    return ThoughtAndAnswer(text[start:close], text[end:], end)


def markers_from(value: Any) -> ThoughtMarkers:
    """Return the markers of a saved [open, close]; None: the usual ones. Raises ValueError."""
    if value is None:
        return USUAL
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(text, str) and text for text in value):
        raise ValueError('"thinking" is not two markers')
    return ThoughtMarkers(*value)


def _without_beginning_of(marker: str, text: str) -> str:
    for length in range(len(marker) - 1, 0, -1):
        if text.endswith(marker[:length]):
            return text[:-length]
    return text

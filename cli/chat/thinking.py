"""Thinking: the `<think>…</think>` that some models write before they answer."""

from __future__ import annotations

from dataclasses import dataclass

OPEN = "<think>"
CLOSE = "</think>"


@dataclass(frozen=True, slots=True)
class ThoughtAndAnswer:
    """An answer's text in two; the second begins at `answer_start`, None while the model still thinks."""

    thinking: str
    answer: str
    answer_start: int | None


def split_thinking(text: str, ended: bool = True) -> ThoughtAndAnswer:
    """Split the text of an answer so far. Unless it `ended`, what may become a tag is left out."""
    body = text.lstrip()
    if not body.startswith(OPEN):
        if not ended and OPEN.startswith(body):
            return ThoughtAndAnswer("", "", 0)
        return ThoughtAndAnswer("", text, 0)
    start = len(text) - len(body) + len(OPEN)
    close = text.find(CLOSE, start)
    if close < 0:
        thinking = text[start:]
        return ThoughtAndAnswer(thinking if ended else _without_partial_tag(thinking), "", None)
    end = close + len(CLOSE)
    return ThoughtAndAnswer(text[start:close], text[end:], end)


def _without_partial_tag(text: str) -> str:
    for length in range(len(CLOSE) - 1, 0, -1):
        if text.endswith(CLOSE[:length]):
            return text[:-length]
    return text

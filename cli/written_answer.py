"""Writes an answer to stdout while it is generated: unchanged to a pipe; to a terminal with thoughts and calls grey."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Protocol

from cli.call_line import call_line
from cli.terminal import columns, moves_its_cursor
from cli.visible import visible
from cli.word_wrap import WordWrap
from mlx_moe.text.dialects import Content, Markup, Part, Reasoning, ToolCall

_RESET = "\x1b[0m"


class WrittenAnswer(Protocol):
    """Where an answer goes."""

    def write(self, text: str, parts: Sequence[Part]) -> None:
        """Write new text of the answer, or the parts that it completes."""

    def finish(self) -> None:
        """End the line."""


class Unwritten:
    """Nowhere."""

    def write(self, text: str, parts: Sequence[Part]) -> None:
        """Write nothing."""

    def finish(self) -> None:
        """Do nothing."""


class PlainText:
    """The text as the model writes it; on a terminal without control characters."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._last = "\n"

    def write(self, text: str, parts: Sequence[Part]) -> None:  # noqa: ARG002 - as in WrittenAnswer
        """Write the text."""
        if text:
            sys.stdout.write(visible(text) if self._is_terminal else text)
            sys.stdout.flush()
            self._last = text[-1]

    def finish(self) -> None:
        """End the line, unless it is empty."""
        if self._last != "\n":
            print(flush=True)


class TerminalText:
    """The parts of the answer, wrapped between words; thoughts and calls are grey, with an empty line around them."""

    def __init__(self) -> None:
        self._wrap = WordWrap()
        self._kind: type[Part] | None = None
        self._last = ""
        self._grey = "\x1b[3m" if os.environ.get("NO_COLOR") else "\x1b[3;90m"

    def write(self, text: str, parts: Sequence[Part]) -> None:  # noqa: ARG002 - as in WrittenAnswer
        """Write the parts."""
        for part in parts:
            if not isinstance(part, Markup):
                self._write_part(part)
        sys.stdout.flush()

    def finish(self) -> None:
        """End the line, unless it is empty."""
        if self._last not in ("", "\n"):
            print(flush=True)

    def _write_part(self, part: Reasoning | Content | ToolCall) -> None:
        text = call_line(part) if isinstance(part, ToolCall) else part.text
        is_same = type(part) is self._kind
        if not is_same or isinstance(part, ToolCall):
            text = text.lstrip("\n")  # the line breaks between parts are ours
            if not text:
                return
            if self._kind is not None:
                self._put("\n" * ((1 if is_same else 2) - (self._last == "\n")))
            self._kind = type(part)
        if isinstance(part, Content):
            self._put(visible(text))
        else:
            sys.stdout.write(self._grey)
            self._put(visible(text))
            sys.stdout.write(_RESET)

    def _put(self, text: str) -> None:
        sys.stdout.write(self._wrap.feed(text, columns(sys.stdout)))
        self._last = text[-1:] or self._last


def written_answer(shown: bool) -> WrittenAnswer:
    """Return where an answer goes: to stdout, if `shown`."""
    if not shown:
        return Unwritten()
    return TerminalText() if sys.stdout.isatty() and moves_its_cursor() else PlainText()

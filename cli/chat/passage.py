"""Passage: a thought, a text or a call within an answer, rendered in pieces as it grows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from cli.chat.markdown import finished_length

Kind = Literal["thought", "text", "call"]


class Passage:
    """A part of an answer on the terminal; lines of what further text cannot change become final.

    `render` turns a piece of text into lines; its second argument is the seconds that it grew, None if it may still
    grow. `is_first`: nothing is above it, so no empty line is needed between.
    """

    def __init__(self, kind: Kind, render: Callable[[str, float | None], list[str]], *, is_first: bool) -> None:
        self.kind = kind
        self.text = ""
        self._render = render
        self._is_first = is_first
        self._done = 0
        self._printed = False
        self._began = self._ended = time.monotonic()

    @property
    def shows(self) -> bool:
        """Whether it has lines on the terminal."""
        return self._printed or bool(self.text[self._done :].strip())

    def add(self, text: str) -> None:
        """Add text; line breaks at its start have no place on the terminal."""
        self.text += text if self.text else text.lstrip("\n")
        self._ended = time.monotonic()

    def skip(self, is_over: bool) -> None:
        """Leave out what was shown before: all of it, or unless `is_over` all but its open line or block."""
        self._done = len(self.text) if is_over else self._finished(self.text + "\n" * (self.kind == "text"))

    def take(self, is_over: bool, *, whole: bool = False) -> tuple[list[str], list[str]]:
        """Return the lines that became final and the lines that may change. `whole`: nothing is final before the end.

        `is_over`: it has ended.
        """
        took_s = self._ended - self._began
        text = self.text.rstrip("\n") if is_over else self.text
        cut = len(text) if is_over else 0 if whole else self._done + self._finished(text[self._done :])
        final = self._spaced(self._render(text[self._done : cut], took_s)) if cut > self._done else []
        self._printed = self._printed or bool(final)
        self._done = max(self._done, cut)
        return final, self._spaced(self._render(text[self._done :], None))

    def _finished(self, text: str) -> int:
        return finished_length(text) if self.kind == "text" else text.rfind("\n") + 1

    def _spaced(self, lines: list[str]) -> list[str]:
        """Put an empty line between blocks of text, and above the first line of anything."""
        spaced = self.kind == "text" if self._printed else not self._is_first
        return ["", *lines] if lines and spaced else lines

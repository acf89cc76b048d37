"""AnswerView: shows an answer while it is generated: drawn on a terminal, or written unchanged to a pipe."""

from __future__ import annotations

import time

from rich.console import Console, RenderableType
from rich.text import Text

from cli.call_line import call_line
from cli.chat.markdown import ChatMarkdown
from cli.chat.passage import Kind, Passage
from cli.chat.region import Region, is_blank
from cli.chat.thinking import PLAIN
from cli.units import duration_text
from cli.visible import visible
from mlx_moe.text.dialects import Content, Dialect, Reasoning, ToolCall

REDRAW_S = 0.04
"""Minimum time between two redraws of an answer."""

DRAWING_SHARE = 10
"""After a redraw of t seconds the next waits DRAWING_SHARE * t: redraws take at most a tenth of the time."""

FOLDED_LINES = 3
"""Visible lines of folded thinking while the model thinks."""

_DIM = "bright_black italic"


class AnswerView:
    """The display of an answer while it is generated; this base class shows nothing."""

    def waiting(self, status: str) -> None:
        """Show a status before the first token."""

    def update(self, text: str, status: str, /) -> None:
        """Show the text so far and a status line below it."""

    def finish(self, text: str) -> None:
        """Show the final text."""


class PlainAnswer(AnswerView):
    """Writes new text unchanged."""

    def __init__(self, console: Console, shown: int) -> None:
        self._console = console
        self._shown = shown

    def update(self, text: str, _status: str, /) -> None:
        """Write the new part of the text."""
        self._console.file.write(text[self._shown :])
        self._console.file.flush()
        self._shown = len(text)

    def finish(self, text: str) -> None:
        """Write the rest and end the line."""
        self.update(text + ("" if text.endswith("\n") else "\n"), "")


class LiveAnswer(AnswerView):
    """Draws thoughts, text and calls: a finished block once, the open block again at each update."""

    def __init__(self, console: Console, fold_thinking: bool, before: str, dialect: Dialect = PLAIN) -> None:
        self._console = console
        self._region = Region(console.file)
        self._fold = fold_thinking
        self._parser = dialect.parser()
        self._fed = 0
        self._passages: list[Passage] = []
        self._next_drawing = 0.0
        self._read(before, ended=False)
        for passage in self._passages:
            passage.skip(is_over=passage is not self._passages[-1])

    def waiting(self, status: str) -> None:
        """Draw the status line alone."""
        self._draw([], [self._one_line(status)])

    def update(self, text: str, status: str, /) -> None:
        """Draw, unless the last redraw was too recent."""
        started = time.monotonic()
        if started < self._next_drawing:
            return
        final, still_open = self._lines(text, ended=False)
        self._draw(final, [*still_open, "", self._one_line(status)])
        took = time.monotonic() - started
        self._next_drawing = started + took + max(REDRAW_S, DRAWING_SHARE * took)

    def finish(self, text: str) -> None:
        """Draw the whole answer, without status line."""
        final, _ = self._lines(text, ended=True)
        self._draw(final, [])

    def discard(self) -> None:
        """Erase the lines that are not final."""
        self._draw([], [])

    def _draw(self, final: list[str], still_open: list[str]) -> None:
        width, height = self._console.size
        self._region.update([*final, *still_open], width, height, keep=len(final))

    def _lines(self, text: str, ended: bool) -> tuple[list[str], list[str]]:
        """Return lines that are final and lines that may change."""
        self._read(text, ended)
        final: list[str] = []
        still_open: list[str] = []
        for passage in self._passages:
            is_over = ended or passage is not self._passages[-1]
            more, still_open = passage.take(is_over, whole=self._fold and passage.kind == "thought")
            final += more
        return final, still_open

    def _read(self, text: str, ended: bool) -> None:
        """Split what is new in the text into passages."""
        parts = self._parser.feed(text[self._fed :])
        self._fed = len(text)
        for part in [*parts, *(self._parser.finish() if ended else ())]:
            match part:
                case Reasoning():
                    self._passage("thought").add(part.text)
                case Content():
                    self._passage("text").add(part.text)
                case ToolCall():
                    self._passage("call").add(f"{call_line(part)}\n")

    def _passage(self, kind: Kind) -> Passage:
        """Return the passage that text of this kind continues, or a new one."""
        if not self._passages or self._passages[-1].kind != kind:
            render = {"thought": self._thought, "text": self._markdown, "call": self._call}[kind]
            is_first = not any(passage.shows for passage in self._passages)
            self._passages.append(Passage(kind, render, is_first=is_first))
        return self._passages[-1]

    def _rendered(self, renderable: RenderableType) -> list[str]:
        """Return lines one cell narrower than the terminal: some terminals wrap a full line."""
        with self._console.capture() as capture:
            self._console.print(renderable, width=max(self._console.width - 1, 1))
        return [line.rstrip() for line in capture.get().removesuffix("\n").split("\n")]

    def _markdown(self, text: str, _took_s: float | None) -> list[str]:
        lines = self._rendered(ChatMarkdown(visible(text)))
        while lines and is_blank(lines[-1]):
            lines.pop()
        while lines and is_blank(lines[0]):
            lines.pop(0)
        return lines

    def _thought(self, text: str, took_s: float | None) -> list[str]:
        if not text:
            return []
        if self._fold and took_s is not None:
            return self._rendered(Text(f"thought for {duration_text(took_s)} (/think show prints it)", style=_DIM))
        lines = self._rendered(Text(visible(text).removesuffix("\n"), style=_DIM))
        return lines[-FOLDED_LINES:] if self._fold else lines

    def _call(self, text: str, _took_s: float | None) -> list[str]:
        return [self._one_line(call) for call in text.splitlines()]

    def _one_line(self, line: str) -> str:
        text = Text(visible(line), style="bright_black")
        text.truncate(max(self._console.width - 1, 1), overflow="ellipsis")
        return self._rendered(text)[0]

"""Screen: the chat's output. Answers are rendered Markdown on a terminal, plain text in a pipe."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.text import Text

from cli.chat.markdown import ChatMarkdown, finished_length
from cli.chat.region import Region, is_blank
from cli.chat.thinking import USUAL, split_thinking
from cli.units import duration_text
from cli.visible import visible
from mlx_moe.text.thought import ThoughtMarkers

REDRAW_S = 0.04
"""Minimum time between two redraws of an answer."""

DRAWING_SHARE = 10
"""After a redraw of t seconds the next waits DRAWING_SHARE * t: redraws take at most a tenth of the time."""

FOLDED_LINES = 3
"""Visible lines of folded thinking while the model thinks."""


class Screen:
    """Prints the chat's output; `live`: on a terminal."""

    def __init__(self, live: bool) -> None:
        self.live = live
        self.fold_thinking = False
        self.console = _console(stderr=False)
        self._notices = self.console if live else _console(stderr=True)

    def print(self, renderable: RenderableType) -> None:
        """Print the output of a command."""
        self.console.print(renderable)

    def notice(self, text: str) -> None:
        """Print one grey line that is not part of the conversation."""
        self._say(Text(visible(text), style="bright_black"))

    def error(self, text: str) -> None:
        """Print an error that does not end the chat."""
        self._say(Text.assemble(("error: ", "red"), visible(text)))

    def _say(self, line: Text) -> None:
        self._notices.print(line, soft_wrap=not self._notices.is_terminal)  # a pipe gets it as one line

    def clear(self) -> None:
        """Clear the terminal."""
        if self.live:
            self.console.clear()

    @contextmanager
    def answer(self, before: str = "", markers: ThoughtMarkers = USUAL) -> Iterator[AnswerView]:
        """Yield a view for an answer; `before` is the part already shown."""
        if not self.live:
            yield PlainAnswer(self.console, len(before))
            return
        view = LiveAnswer(self.console, self.fold_thinking, before, markers)
        self.console.show_cursor(False)
        try:
            yield view
        finally:
            view.discard()
            self.console.show_cursor(True)

    def replay(self, text: str, markers: ThoughtMarkers = USUAL) -> None:
        """Print an earlier answer."""
        with self.answer(markers=markers) as view:
            view.finish(text)


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
    """Draws thinking and answer: a finished block once, the open block again at each update."""

    def __init__(self, console: Console, fold_thinking: bool, before: str, markers: ThoughtMarkers = USUAL) -> None:
        self._console = console
        self._markers = markers
        self._region = Region(console.file)
        self._fold = fold_thinking
        earlier = split_thinking(before, markers)
        thought = earlier.thinking.strip("\n")
        shown = len(thought) if earlier.answer_start is not None else _complete_lines(thought)
        if fold_thinking:
            self._thinking = _Growing(self._folded, lambda _text: 0, shown, gap=False)
        else:
            self._thinking = _Growing(self._dim, _complete_lines, shown, gap=False)
        self._answer = _Growing(self._markdown, finished_length, finished_length(earlier.answer + "\n"), gap=True)
        self._started = self._thought_until = time.monotonic()
        self._next_drawing = 0.0

    def waiting(self, status: str) -> None:
        """Draw the status line alone."""
        self._draw([], [self._status(status)])

    def update(self, text: str, status: str, /) -> None:
        """Draw, unless the last redraw was too recent."""
        started = time.monotonic()
        if started < self._next_drawing:
            return
        final, still_open = self._lines(text, ended=False)
        self._draw(final, [*still_open, "", self._status(status)])
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
        parts = split_thinking(text, self._markers, ended)
        thought = parts.answer_start is not None
        if not thought:
            self._thought_until = time.monotonic()
        final, still_open = self._thinking.take(parts.thinking.strip("\n"), thought or ended)
        if thought:
            self._answer.printed |= self._thinking.printed
            more, still_open = self._answer.take(parts.answer, ended)
            final += more
        return final, still_open

    def _rendered(self, renderable: RenderableType) -> list[str]:
        """Return lines one cell narrower than the terminal: some terminals wrap a full line."""
        with self._console.capture() as capture:
            self._console.print(renderable, width=max(self._console.width - 1, 1))
        return [line.rstrip() for line in capture.get().removesuffix("\n").split("\n")]

    def _markdown(self, text: str, _ended: bool) -> list[str]:
        lines = self._rendered(ChatMarkdown(visible(text)))
        while lines and is_blank(lines[-1]):
            lines.pop()
        while lines and is_blank(lines[0]):
            lines.pop(0)
        return lines

    def _dim(self, text: str, _ended: bool = False) -> list[str]:
        if not text:
            return []
        return self._rendered(Text(visible(text).removesuffix("\n"), style="bright_black italic"))

    def _folded(self, text: str, ended: bool) -> list[str]:
        if not text:
            return []
        if not ended:
            return self._dim(text)[-FOLDED_LINES:]
        took = duration_text(self._thought_until - self._started)
        return self._rendered(Text(f"thought for {took} (/think show prints it)", style="bright_black italic"))

    def _status(self, status: str) -> str:
        text = Text(visible(status), style="bright_black")
        text.truncate(max(self._console.width - 1, 1), overflow="ellipsis")
        return self._rendered(text)[0]


class _Growing:
    """A text that is rendered in pieces; `cut` returns the length of the finished part, which becomes final."""

    def __init__(
        self, render: Callable[[str, bool], list[str]], cut: Callable[[str], int], done: int, gap: bool
    ) -> None:
        self.done = done
        self._render = render
        self._cut = cut
        self._gap = gap
        self.printed = False

    def take(self, text: str, ended: bool) -> tuple[list[str], list[str]]:
        """Return the lines that became final and the lines that may change."""
        cut = len(text) if ended else self.done + self._cut(text[self.done :])
        final = self._spaced(self._render(text[self.done : cut], True)) if cut > self.done else []
        self.printed = self.printed or bool(final)
        self.done = max(self.done, cut)
        return final, self._spaced(self._render(text[self.done :], False))

    def _spaced(self, lines: list[str]) -> list[str]:
        return ["", *lines] if lines and self.printed and self._gap else lines


def _complete_lines(text: str) -> int:
    return text.rfind("\n") + 1


def _console(stderr: bool) -> Console:
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)

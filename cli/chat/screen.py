"""Screen: the chat's output. Answers are rendered Markdown on a terminal, plain text in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.text import Text

from cli.chat.answer_view import AnswerView, LiveAnswer, PlainAnswer
from cli.chat.thinking import PLAIN
from cli.visible import visible
from mlx_moe.text.dialects import Dialect


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
    def answer(self, before: str = "", dialect: Dialect = PLAIN) -> Iterator[AnswerView]:
        """Yield a view for an answer; `before` is the part already shown."""
        if not self.live:
            yield PlainAnswer(self.console, len(before))
            return
        view = LiveAnswer(self.console, self.fold_thinking, before, dialect)
        self.console.show_cursor(False)
        try:
            yield view
        finally:
            view.discard()
            self.console.show_cursor(True)

    def replay(self, text: str, dialect: Dialect = PLAIN) -> None:
        """Print an earlier answer."""
        with self.answer(dialect=dialect) as view:
            view.finish(text)


def _console(stderr: bool) -> Console:
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)

"""Readers: read the chat's input from a terminal or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER, EditingMode
from prompt_toolkit.filters import Condition, has_focus
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.styles import Style

FENCE = '"""'
PROMPT = ">>> "

BAR_S = 1.0
"""Refresh interval of the bar while nobody types: nodes may join or leave."""

Choices = Mapping[str, Callable[[], Iterable[str]]]
"""The completions of each slash command's argument."""


class Reader(Protocol):
    """Reads messages and commands."""

    def read(self, draft: str = "", /) -> str:
        """Return the next input, which may have several lines; `draft` is its initial text.

        Raises:
            EOFError: end of input, or Ctrl-D.
            KeyboardInterrupt: Ctrl-C.
        """


class PipeReader:
    """Reads lines from stdin; triple quotes enclose a multi-line message."""

    def __init__(self) -> None:
        self._asks = sys.stdin.isatty()  # a terminal too simple for TerminalReader
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
        self._lines: Iterator[str] = iter(sys.stdin)

    def read(self, _draft: str = "", /) -> str:
        """Return the next line, or the text up to the closing quotes."""
        text = self._line()
        while is_open(text):
            try:
                text += "\n" + self._line()
            except EOFError:
                break
        return unfenced(text)

    def _line(self) -> str:
        if self._asks:
            print(PROMPT, end="", file=sys.stderr, flush=True)
        for line in self._lines:
            return line.removesuffix("\n")
        raise EOFError


class TerminalReader:
    """An input line with history, search, paste, completion and a status bar."""

    def __init__(self, history: Path | None, choices: Choices, bar: Callable[[], str]) -> None:
        self._session: PromptSession[str] = PromptSession(
            history=_history(history),
            completer=_CommandCompleter(choices),
            complete_while_typing=Condition(self._types_a_command),
            multiline=True,
            key_bindings=_keys(),
            editing_mode=EditingMode.EMACS,
            enable_open_in_editor=False,  # Ctrl-G is bound below; the default is Ctrl-X Ctrl-E
            enable_suspend=True,
            bottom_toolbar=lambda: [("class:bar", bar())],
            refresh_interval=BAR_S,
            prompt_continuation="... ",
            tempfile_suffix=".md",
            style=Style.from_dict({"bottom-toolbar": "noreverse", "bar": "fg:ansibrightblack", "prompt": "bold"}),
            reserve_space_for_menu=6,
        )

    def read(self, draft: str = "", /) -> str:
        """Return the input."""
        return unfenced(self._session.prompt([("", "\n"), ("class:prompt", PROMPT)], default=draft))

    def _types_a_command(self) -> bool:
        return self._session.default_buffer.text.startswith("/")


def is_open(text: str) -> bool:
    """Whether a message has opening triple quotes but no closing ones."""
    start = text.lstrip()
    return start.startswith(FENCE) and not (len(start.rstrip()) >= 2 * len(FENCE) and start.rstrip().endswith(FENCE))


def unfenced(text: str) -> str:
    """Return a message without its triple quotes."""
    body = text.strip()
    if not body.startswith(FENCE):
        return text
    return body.removeprefix(FENCE).removesuffix(FENCE).strip("\n")


def _keys() -> KeyBindings:
    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)  # not while searching, where Enter and Ctrl-G mean something else

    @keys.add("enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c", filter=typing)
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt)

    @keys.add("c-g", filter=typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.open_in_editor()

    return keys


def _history(path: Path | None) -> History:
    """Return the history in a file that only its owner can read, or in memory if there can be none."""
    if path is None:
        return InMemoryHistory()
    try:
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return _ForgivingHistory(str(path))


class _ForgivingHistory(FileHistory):
    """A history that ignores a full disk, which must not end the chat."""

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


class _CommandCompleter(Completer):
    def __init__(self, choices: Choices) -> None:
        self._choices = choices

    def get_completions(self, document: Document, _complete_event: CompleteEvent) -> Iterator[Completion]:
        before = document.text_before_cursor
        if not before.startswith("/") or "\n" in before:
            return
        command, space, argument = before.partition(" ")
        options = self._choices.get(command, list)() if space else self._choices
        typed = argument if space else command
        for option in options:
            if option.startswith(typed):
                yield Completion(option, start_position=-len(typed))

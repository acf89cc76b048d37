"""The chat in a real pseudo-terminal, its screen kept by a terminal emulator."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import TracebackType

import pyte
import pytest

from cli.chat.transcript import SavedChat, Transcripts
from tests.cli.scripted import WAIT

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20.0

CTRL_C, CTRL_D, TAB, ALT_ENTER = "\x03", "\x04", "\t", "\x1b\r"

# The child makes the terminal its own, or Ctrl-C would signal nobody.
LAUNCH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A process in a terminal of 80 columns and 24 rows."""

    def __init__(self, home: Path, arguments: list[str]) -> None:
        self._screen = pyte.HistoryScreen(80, 24, history=1000, ratio=1)
        self._stream = pyte.ByteStream(self._screen)
        self._fd, child = pty.openpty()
        fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = os.environ | {
            "MOE_CLUSTER_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, sys.executable, "-W", "error", *arguments],
            cwd=ROOT,
            env=environment,
            stdin=child,
            stdout=child,
            stderr=child,
            start_new_session=True,
        )
        os.close(child)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._fd)

    @property
    def text(self) -> str:
        columns = range(80)
        past = ["".join(row[x].data for x in columns).rstrip() for row in self._screen.history.top]
        return "\n".join([*past, *(line.rstrip() for line in self._screen.display)])

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def until(self, wanted: str, times: int = 1) -> str:
        """Wait until something is on the screen (`times` times); return all of it."""
        deadline = time.monotonic() + PATIENCE_S
        while self.text.count(wanted) < times:
            if time.monotonic() > deadline or not self._read(deadline):
                pytest.fail(f"{wanted!r} did not come; the screen is\n{self.text}")
        return self.text

    def end(self) -> int:
        """Wait until the process ended; return its exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self.process.wait(PATIENCE_S)

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(deadline - time.monotonic(), 0))
        try:
            data = os.read(self._fd, 65536) if ready else b""
        except OSError:  # Linux: the other side is closed
            return False
        self._stream.feed(data)
        if b"\x1b[6n" in data:  # where is the cursor?
            cursor = self._screen.cursor
            os.write(self._fd, f"\x1b[{cursor.y + 1};{cursor.x + 1}R".encode())
        return bool(data)


class Started:
    """Starts chats that share a home."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self._script = directory / "script.md"

    def scripted(self, text: str, *arguments: str) -> Terminal:
        self._script.write_text(text, encoding="utf-8")
        return Terminal(self.home, ["-m", "tests.cli.scripted", str(self._script), "chat", *arguments])

    def real(self, *arguments: str) -> Terminal:
        return Terminal(self.home, ["-m", "cli", "chat", *arguments])

    @property
    def saved(self) -> list[str]:
        saved = Transcripts(self.home / "sessions").latest()
        assert isinstance(saved, SavedChat)
        return [message.text for message in saved.dialogue.messages]


@pytest.fixture
def started(tmp_path: Path) -> Started:
    return Started(tmp_path)


def test_a_question_is_answered_in_markdown_above_the_bar(started: Started) -> None:
    with started.scripted("# Title\n\n- **one**\n- two 日本\n\n`done`") as terminal:
        terminal.until("ctx 0/4k")
        terminal.type("hello\r")
        screen = terminal.until("demo · 24.3 tok/s · TTFT 0.2 s · ctx 65/4k")
        assert "\n>>> hello\nTitle\n\n • one\n • two 日本\n\ndone\n\n>>>" in screen
        assert "Ctrl-C stops" not in screen
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert started.saved[0] == "hello"


def test_ctrl_c_stops_the_answer_keeps_it_and_what_was_typed_meanwhile(started: Started) -> None:
    with started.scripted("a partial answer" + WAIT) as terminal:
        terminal.until(">>>")
        terminal.type("go\r")
        terminal.until("a partial answer")
        terminal.type("typed ahead")
        terminal.type(CTRL_C)
        terminal.until("stopped; /continue goes on")
        assert "^C" not in terminal.until(">>> typed ahead")
        terminal.type(CTRL_C)
        terminal.type("/exit\r")
        assert terminal.end() == 0
    assert started.saved == ["go", "a partial answer"]


def test_messages_of_several_lines_are_pasted_quoted_or_typed(started: Started) -> None:
    with started.scripted("yes") as terminal:
        terminal.until(">>>")
        terminal.type("\x1b[200~def f():\n    return 1\x1b[201~\r")
        terminal.until(">>>", 2)
        terminal.type('"""one\rtwo"""\r')
        terminal.until(">>>", 3)
        terminal.type("three" + ALT_ENTER + "four\r")
        terminal.until(">>>", 4)
    assert started.saved[::2] == ["def f():\n    return 1", "one\ntwo", "three\nfour"]


def test_tab_completes_commands(started: Started) -> None:
    with started.scripted("yes") as terminal:
        terminal.until(">>>")
        terminal.type("/sess")
        terminal.until("/sessions")
        terminal.type(TAB)
        terminal.until(">>> /sessions")
        terminal.type("\r")
        terminal.until("no saved chats yet")


def test_a_closed_terminal_loses_nothing_and_the_chat_goes_on(started: Started) -> None:
    with started.scripted("a partial answer" + WAIT, "some-model") as terminal:
        terminal.until(">>>")
        terminal.type("go\r")
        terminal.until("a partial answer")
        terminal.process.send_signal(signal.SIGHUP)
        assert terminal.end() == 128 + signal.SIGHUP
    assert started.saved == ["go", "a partial answer"]
    with started.scripted("a partial answer and its end", "-c") as terminal:
        terminal.until("some-model")
        terminal.until("2 messages")
        terminal.type("/continue\r")
        terminal.until("a partial answer and its end")
        terminal.type("/exit\r")
        assert terminal.end() == 0
    assert started.saved == ["go", "a partial answer and its end"]


def test_a_model_that_is_not_there_is_one_line(started: Started) -> None:
    with started.scripted("", "missing") as terminal:
        terminal.until("error: no model 'missing' here")
        assert terminal.end() == 3


def test_the_demo_model_chats_and_reads_only_what_is_new(started: Started) -> None:
    with started.real("--seed", "1") as terminal:
        terminal.until("demo (built in")
        terminal.type("Hello\r")
        terminal.until("tok/s")
        terminal.type("Who are you?\r")
        terminal.until(">>>", 3)
        terminal.type("/stats\r")
        assert ", 0 kept from before" not in terminal.until("kept from before")
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert len(started.saved) == 4

"""The chat in a real pseudo-terminal."""

from __future__ import annotations

import itertools
import re
import signal
from pathlib import Path

import pytest

from cli.chat.start import _choose_model
from cli.chat.transcript import SavedChat, Transcripts
from tests.cli.scripted import WAIT
from tests.cli.terminal import CTRL_C, CTRL_D, Terminal

TAB, ALT_ENTER = "\t", "\x1b\r"


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
        assert ", 0 from the cache" not in terminal.until("from the cache")
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    assert len(started.saved) == 4


def test_a_chat_without_a_model_takes_the_one_that_is_served() -> None:
    transcripts = Transcripts(Path("nowhere"))
    assert _choose_model("other", "demo", None, transcripts) == ("other", "")
    assert _choose_model(None, "/models/big", None, transcripts)[0] == "/models/big"
    assert _choose_model(None, None, None, transcripts)[0] == "demo"


def test_errors_are_wrapped_between_words(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for columns in (60, 100):
        with Terminal(started.home, ["-m", "cli", "run", "somebody/a-model", "hi", "--local"], columns) as terminal:
            assert terminal.end() == 2
            rows = terminal.text.strip()
        # a path longer than a row goes on in the next one
        lines = re.sub(rf"^(.{{{columns}}})\n", r"\1", rows, flags=re.MULTILINE).splitlines()
        assert len(lines) > 1
        assert " ".join(lines).startswith("error: somebody/a-model is not on this machine (looked for ")
        assert all(len(line) + len(after.split()[0]) >= columns for line, after in itertools.pairwise(lines))


@pytest.mark.parametrize(
    ("option", "told"),
    [(["--max-tokens", "5"], "max_tokens (5) reached"), ([], "the context (4,096 tokens) is full")],
)
def test_run_says_why_the_answer_ended_below_it(started: Started, option: list[str], told: str) -> None:
    script = started.home.parent / "script.md"
    script.write_text("x" * 5000)
    with Terminal(started.home, ["-m", "tests.cli.scripted", str(script), "run", "demo", "hi", *option]) as terminal:
        assert terminal.end() == 0
        assert f"x\nstopped: {told}" in terminal.text

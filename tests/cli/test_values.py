"""The small pure parts: exit codes, units, safe text, thinking, the bar, home."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.chat.bar import bar_text
from cli.chat.thinking import PLAIN, ThoughtAndAnswer, split_thinking
from cli.exit_codes import ExitCode, exit_code_of
from cli.failures import error_line
from cli.units import count_text, duration_text, rate_text, span_text, tokens_text
from cli.visible import visible
from cluster.errors import ClusterError, NoClusterError, NodeLostError, PlacementError, TrustError
from cluster.home import VARIABLE, Home
from mlx_moe import errors
from mlx_moe.decoding.request import GenerationStats
from mlx_moe.text.dialects import named
from mlx_moe.text.thought import ThoughtMarkers
from mlx_moe.units import bytes_text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequestError(""), 2),
        (errors.CheckpointError(""), 3),
        (errors.UnsupportedModelError(""), 3),
        (errors.TemplateError(""), 3),
        (errors.InsufficientMemoryError(""), 4),
        (errors.TooLargeError(""), 4),
        (errors.BusyError(""), 4),
        (errors.EvictedError(""), 4),
        (errors.NumericsError(""), 5),
        (errors.FrameError(""), 5),
        (PlacementError(""), 4),
        (ClusterError(""), 6),
        (TrustError(""), 7),
        (NodeLostError(""), 8),
        (NoClusterError(""), 9),
        (errors.MoeClusterError(""), 1),
        (ValueError(""), 1),
    ],
)
def test_errors_have_stable_exit_codes(error: Exception, code: int) -> None:
    assert exit_code_of(error) == code


def test_exit_codes_of_signals_are_those_of_shells() -> None:
    assert (ExitCode.INTERRUPTED, ExitCode.BROKEN_PIPE) == (130, 141)


def test_a_failure_is_one_line() -> None:
    assert error_line(errors.CheckpointError("a\nb")) == "error: a b"
    assert error_line(KeyError("x")) == "error: KeyError: 'x' (--debug shows where)"


def test_numbers_read_well() -> None:
    assert bytes_text(378_106_000_000) == "378.1 GB"
    assert bytes_text(12) == "12 B"
    assert count_text(671_026_419_200) == "671.0 B"
    assert count_text(812) == "812"
    assert [tokens_text(n) for n in (310, 2048, 3100, 32768)] == ["310", "2k", "3.1k", "32k"]
    assert [rate_text(x) for x in (5.372, 23.14, 480.4)] == ["5.37 tok/s", "23.1 tok/s", "480 tok/s"]
    assert [duration_text(s) for s in (0.024, 0.2, 12, 200, 3600, 86400)] == [
        "24 ms",
        "0.2 s",
        "12 s",
        "3 min 20 s",
        "60 min",
        "24 h",
    ]


@given(st.text())
def test_visible_text_cannot_drive_a_terminal(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert all(c in "\n\t" or (ord(c) >= 0x20 and not 0x7F <= ord(c) < 0xA0) for c in shown)


def test_visible_keeps_what_people_write() -> None:
    text = "naïve 日本語 👩‍👩‍👧 \t x\n"
    assert visible(text) == text
    assert visible("\x1b[31m\r\n\x9b\u202e") == "␛[31m\n\ufffd\ufffd"


def test_thinking_is_told_from_the_answer() -> None:
    assert split_thinking("\n<think>\nhm</think>\n42", PLAIN) == ThoughtAndAnswer("hm", "42")
    assert split_thinking("no <think>x</think>", PLAIN).answer == "no <think>x</think>"
    other = named("plain", ThoughtMarkers("[THINK]", "[/THINK]"))
    assert split_thinking("[THINK]hm[/THINK]42", other) == ThoughtAndAnswer("hm", "42")
    call = '<tool_call>{"name": "f"}</tool_call>'
    assert split_thinking(f"<think>hm</think>{call}", named("qwen", PLAIN.markers)) == ThoughtAndAnswer("hm", call)


def test_bar_tells_model_speed_and_context() -> None:
    stats = GenerationStats(generated_tokens=11, ttft_s=0.2, decode_s=10 / 23.1)
    assert bar_text("3/3 nodes", stats, 310, 2048) == "3/3 nodes · 23.1 tok/s · TTFT 0.2 s · ctx 310/2k"
    assert bar_text("demo", None, 0, 2048) == "demo · ctx 0/2k"


def test_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "a"))
    home = Home.default()
    home.create()
    assert home.sessions == tmp_path / "a" / "sessions"
    assert home.path.stat().st_mode & 0o077 == 0
    monkeypatch.setenv(VARIABLE, "")
    assert Home.default().path.name == "moe-cluster"


def test_one_layer_is_not_shown_as_a_span() -> None:
    assert (span_text(range(4, 5)), span_text(range(9))) == ("4", "0-8")

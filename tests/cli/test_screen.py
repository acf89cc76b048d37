"""Answers on a terminal: drawn into a terminal emulator, token after token."""

from __future__ import annotations

import io

import pyte
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cli.chat.answer_view import LiveAnswer
from cli.chat.markdown import ChatMarkdown, finished_length
from cli.chat.region import Region
from cli.chat.thinking import PLAIN
from mlx_moe.text.dialects import Dialect, named

ANSWER = """# Title

A paragraph with **bold** text and `code` that is long enough to be wrapped at the edge of a terminal.
Second line.

1. one
2. two
   - inner 日本語 🙂

```python
def f(x):
    return x
```

| a | b |
|---|--:|
| 1 | 2 |

Last line."""


MATHS = r"""The set \(a_1 * b * c\) and \[x\], a lone \[ or \), \{1\}, 5\% and **bold \(y\)**; \*no\* `code \(x\)`.

\[
x = \frac{a}{b} \\
- y * 2 * 3
= 5
\]

1. item:
   $$
   \begin{align} a &= b \\ \end{align}
   $$

| \(x\) | \[y\] |
|---|---|
| 1 | 2 |

```latex
\[ a \(b\) \]
```"""

MATHS_SHOWN = r"""The set \(a_1 * b * c\) and \[x\], a lone \[ or \), \{1\}, 5\% and bold \(y\);
*no* code \(x\).

\[
x = \frac{a}{b} \\
- y * 2 * 3
= 5
\]

 1. item:
    $$
    \begin{align} a &= b \\ \end{align}
    $$

\(x\)  \[y\]
────────────
1      2

  \[ a \(b\) \]"""


class Terminal:
    """A pyte screen with a file that writes to it."""

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000, ratio=1)
        self._stream = pyte.Stream(self.screen)
        self.written = 0
        self.console = Console(file=self, force_terminal=True, width=columns, height=rows, markup=False)  # type: ignore[arg-type]

    def write(self, text: str) -> int:
        self.written += len(text)
        self._stream.feed(text.replace("\n", "\r\n"))
        return len(text)

    def flush(self) -> None:
        pass

    @property
    def lines(self) -> list[str]:
        """All lines, those that left the top too, without trailing space."""
        columns = range(self.screen.columns)
        past = ["".join(row[x].data for x in columns).rstrip() for row in self.screen.history.top]
        return [*past, *(line.rstrip() for line in self.screen.display)]

    @property
    def text(self) -> str:
        return "\n".join(self.lines).rstrip()


def draw(
    terminal: Terminal, text: str, step: int, before: str = "", fold: bool = False, dialect: Dialect = PLAIN
) -> None:
    """Draw an answer as it grows by `step` characters."""
    view = LiveAnswer(terminal.console, fold, before, dialect)
    for end in range(len(before) + step, len(text), step):
        view._next_drawing = 0.0
        view.update(text[:end], "the bar")
    view.finish(text)


@pytest.mark.parametrize("rows", [6, 24])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_a_grown_answer_looks_like_one_printed_at_once(step: int, rows: int) -> None:
    whole, grown = Terminal(rows=60), Terminal(rows=rows)
    draw(whole, ANSWER, len(ANSWER))
    draw(grown, ANSWER, step)
    assert grown.text == whole.text
    assert "the bar" not in grown.text


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_latex_stays_as_the_model_wrote_it(step: int) -> None:
    terminal = Terminal(rows=40)
    draw(terminal, MATHS, step)
    assert terminal.text == MATHS_SHOWN


@given(st.text("\\\\()[]$x* \n", max_size=40))
def test_anything_between_brackets_is_drawn(text: str) -> None:
    list(Console(file=io.StringIO()).render(ChatMarkdown(text)))


def test_markdown_is_rendered() -> None:
    terminal = Terminal(rows=40)
    draw(terminal, ANSWER, 5)
    lines = terminal.lines
    assert lines[0] == "Title"
    assert "Second line." in lines
    assert " 1. one" in lines
    assert "  def f(x):" in lines
    assert terminal.text.splitlines().count("") == 5


def test_only_what_changed_is_written() -> None:
    terminal = Terminal()
    text = "\n\n".join(f"paragraph {i} of this answer" for i in range(40))
    draw(terminal, text, 4)
    assert terminal.written < 60 * len(text)


def test_escape_sequences_of_a_model_are_shown_not_obeyed() -> None:
    terminal = Terminal()
    draw(terminal, "a \x1b[2J\x1b]0;title\x07 b\n\n```\n\x1b[31mred\n```", 3)
    assert terminal.lines[0] == "a ␛[2J␛]0;title␇ b"
    assert terminal.lines[2] == "  ␛[31mred"
    assert terminal.screen.title == ""


def test_thinking_is_shown_before_the_answer() -> None:
    terminal = Terminal()
    draw(terminal, "<think>\nfirst\n\nsecond\n</think>\n\nThe answer.", 1)
    assert terminal.lines[:5] == ["first", "", "second", "", "The answer."]
    assert terminal.screen.buffer[0][0].fg == "brightblack"


def test_folded_thinking_leaves_one_line() -> None:
    terminal = Terminal()
    draw(terminal, "<think>\n" + "a long thought\n" * 20 + "</think>The answer.", 3, fold=True)
    assert terminal.lines[0].startswith("thought for")
    assert terminal.lines[1:3] == ["", "The answer."]


HARMONY = (
    "<|channel|>analysis<|message|>I need the weather.<|end|><|start|>assistant<|channel|>commentary<|message|>"
    "One **moment**.<|end|><|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
    '{"city": "Rome",\n "days": 3}<|call|><|start|>assistant<|channel|>analysis<|message|>Now the answer.<|end|>'
    "<|start|>assistant<|channel|>final<|message|>It rains."
)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_thoughts_and_calls_stand_where_the_model_wrote_them(step: int) -> None:
    terminal = Terminal()
    draw(terminal, HARMONY, step, dialect=named("harmony", PLAIN.markers))
    assert terminal.text.splitlines() == [
        "I need the weather.",
        "",
        "One moment.",
        "",
        'calls weather {"city": "Rome", "days": 3}',
        "",
        "Now the answer.",
        "",
        "It rains.",
    ]
    assert [terminal.screen.buffer[row][0].fg for row in (0, 2, 4)] == ["brightblack", "default", "brightblack"]


def test_a_long_call_is_one_line() -> None:
    terminal = Terminal(columns=40)
    call = '<tool_call>{"name": "write", "arguments": {"text": "' + "many words " * 50 + '"}}</tool_call>'
    draw(terminal, f"{call}\n{call}", 20, dialect=named("qwen", PLAIN.markers))
    assert terminal.text.splitlines() == ['calls write {"text": "many words many …'] * 2


def test_html_and_link_targets_are_visible() -> None:
    terminal = Terminal()
    draw(terminal, "<div>x</div> [click](https://evil.example)", 1)
    assert terminal.lines[0] == "<div>x</div> click (https://evil.example)"


def test_a_continued_answer_begins_at_its_open_block() -> None:
    terminal = Terminal()
    draw(terminal, "One.\n\nTwo begins and goes on.", 2, before="One.\n\nTwo begins")
    assert terminal.text == "Two begins and goes on."


def test_a_very_long_line_is_wrapped() -> None:
    terminal = Terminal(columns=20)
    draw(terminal, "x" * 500, 50)
    assert terminal.text.replace("\n", "") == "x" * 500
    assert max(map(len, terminal.lines)) == 19


@given(st.text(alphabet="ab `*_#-1.>|\n\x1b日🙂<think>/", max_size=200), st.integers(1, 9))
@settings(max_examples=60)
def test_no_text_breaks_the_drawing(text: str, step: int) -> None:
    whole, grown = Terminal(rows=80), Terminal(rows=80)
    draw(whole, text, max(len(text), 1))
    draw(grown, text, step)
    assert grown.text.replace("\n", "").replace(" ", "") == whole.text.replace("\n", "").replace(" ", "")


@given(st.integers(0, len(ANSWER)))
def test_finished_blocks_stay_finished(length: int) -> None:
    done = finished_length(ANSWER[:length])
    assert finished_length(ANSWER) >= done
    assert done == 0 or ANSWER[done - 1] == "\n"


def test_a_list_item_half_written_does_not_end_its_list() -> None:
    assert finished_length("1. a\n\n2") == 0
    assert finished_length("```\ncode\n\nmore\n\n") == 0
    assert finished_length("para\n\nnext\n") == len("para\n\n")


def test_a_narrower_terminal_is_redrawn_by_the_rows_its_lines_now_take() -> None:
    out = io.StringIO()
    region = Region(out)
    region.update(["x" * 70, "y"], width=80, height=24)
    region.update(["z"], width=40, height=24)
    assert out.getvalue().endswith("\x1b[3A\rz\x1b[K\n\x1b[J")


def test_lines_above_the_terminal_are_left_alone() -> None:
    out = io.StringIO()
    region = Region(out)
    region.update([f"{i}" for i in range(10)], width=80, height=5)
    out.truncate(0)
    region.update(["changed", *(f"{i}" for i in range(1, 10)), "new"], width=80, height=5)
    assert "changed" not in out.getvalue()
    assert "new" in out.getvalue()

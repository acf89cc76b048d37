"""What an answer waits for is one line: what was lost, then bytes, then positions, and the seconds."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from cli.waiting import WaitingLine, waiting_text
from cluster.client import NodeProgress, Waiting
from cluster.errors import NodeLostError
from tests.cli.terminal import Terminal

LOST = Waiting("node mac-2 does not answer")
LOADING = [NodeProgress("mac-1", 30_000_000, 50_000_000), NodeProgress("mac-3", 10_000_000, 30_000_000)]


def test_the_line_says_what_is_done_meanwhile() -> None:
    assert waiting_text(LOST, 1.0, []) == "placing its part on other nodes, 1.0 s: node mac-2 does not answer"
    assert waiting_text(LOST, 2.0, LOADING) == "loading 40.0 MB of 80.0 MB, 2.0 s: node mac-2 does not answer"
    again = Waiting(LOST.cause, 250, 1060)
    assert waiting_text(again, 12.0, LOADING) == (
        "computing 250 of 1,060 positions again, 12 s: node mac-2 does not answer"
    )


def test_the_line_is_removed_when_the_answer_continues_and_a_node_that_is_silent_ends_nothing() -> None:
    shown: list[str] = []
    nodes = [SimpleNamespace(holding=SimpleNamespace(progress=progress)) for progress in LOADING]
    answers = [SimpleNamespace(nodes=nodes)]

    def status() -> SimpleNamespace:
        if not answers:
            raise NodeLostError("no answer")
        return answers.pop()

    line = WaitingLine(status, shown.append)  # type: ignore[arg-type]
    line(LOST)
    line._looked_at = 0.0
    line(LOST)
    line(None)
    assert [text.partition(",")[0] for text in shown[:2]] == ["loading 40.0 MB of 80.0 MB"] * 2
    assert shown[2:] == [""]


SCRIPT = """
import time
from pathlib import Path
from cli.status_line import StatusLine
print("\\n" * {lines}, end="")
print("One, two, ", end="", flush=True)
line = StatusLine()
line.show("node mac-2 is lost; " + "very " * 40)
line.show("node mac-2 is lost; 2 s")
while not Path({flag!r}).exists():
    time.sleep(0.01)
line.show("")
print("three.", flush=True)
"""


def test_the_line_is_below_the_text_which_goes_on_where_it_stopped(tmp_path: Path) -> None:
    for lines in (0, 30):  # at the top, and at the bottom of the screen
        flag = tmp_path / f"go-{lines}"
        with Terminal(tmp_path, ["-c", SCRIPT.format(lines=lines, flag=str(flag))]) as terminal:
            screen = terminal.until("lost; 2 s").splitlines()
            assert "One, two," in screen[screen.index("node mac-2 is lost; 2 s") - 1]
            flag.touch()
            assert terminal.end() == 0
            assert [text for text in terminal.text.splitlines() if text] == ["One, two, three."]

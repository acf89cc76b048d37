"""`moe-cluster demo`: three real nodes, the model on all of them, and a chat that outlives what happens to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cli.chat.transcript import SavedChat, Transcripts
from cli.demo import shape
from tests.cli.terminal import CTRL_C, CTRL_D, ROOT, Terminal
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.slow

LONG = "Count from 1 to 50"


def processes(directory: Path) -> list[psutil.Process]:
    """Return the nodes and workers whose home is in a directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(directory) in word for word in (*process.cmdline(), *process.environ().values())):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return [process for process in found if process.pid != os.getpid()]


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory for the demo's homes and the person's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("nodes", "layers", "peers"),
    [
        (1, [6], [0]),
        (2, [3, 3], [0, 0]),
        (3, [3, 3], [0, 1]),
        (4, [2, 2, 2], [0, 0, 1]),
        (7, [1] * 6, [0, 0, 0, 0, 0, 1]),
    ],
)
def test_the_last_node_holds_experts_alone(nodes: int, layers: list[int], peers: list[int]) -> None:
    assert shape(nodes, 6) == (layers, peers)


def test_one_answer_goes_to_stdout_and_nothing_is_left(demo: Path) -> None:
    environment = os.environ | {"MOE_CLUSTER_HOME": str(demo / "own"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-m", "cli", "demo", "--prompt", "What is an expert?"]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (
        0,
        "An expert is a small feed-forward network inside a layer. Each token uses only a few of them.\n",
    )
    assert result.stderr.startswith("demo runs on 3 nodes of this machine: mac-1 holds layers 0-2, mac-2 layers 3-5")
    assert [path.name for path in demo.iterdir()] == ["own"]
    assert processes(demo) == []


def test_an_answer_goes_on_after_its_worker_was_lost(demo: Path) -> None:
    with Terminal(demo / "own", ["-m", "cli", "demo"]) as terminal:
        screen = terminal.until("3/3 nodes")
        for step in ("measuring this machine", "starting mac-1", "starting mac-2, mac-3", "starting the workers"):
            assert step.encode() in terminal.written
            assert step not in screen
        terminal.type("/nodes\r")
        assert "coordinator" in terminal.until("experts", 3)
        terminal.type(LONG + "\r")
        terminal.until("1, 2, 3")
        terminal.type(CTRL_C)
        terminal.until("stopped; /continue goes on")
        terminal.type("/retry\r")
        terminal.until("1, 2, 3", 2)
        worker = next(p for p in processes(demo) if "cluster.worker" in p.cmdline() and "mac-3" in p.cmdline())
        worker.send_signal(signal.SIGKILL)
        assert "mac-3" in terminal.until("the answer waited")
        terminal.type("What is an expert?\r")
        terminal.until("a small feed-forward network")
        terminal.type(CTRL_D)
        assert terminal.end() == 0
    saved = Transcripts(demo / "own" / "sessions").latest()
    assert isinstance(saved, SavedChat)
    assert [message.text for message in saved.dialogue.messages][::2] == [LONG, "What is an expert?"]
    assert saved.dialogue.messages[1].text.startswith("1, 2, 3")
    assert processes(demo) == []


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGKILL])
def test_nodes_end_with_the_terminal_and_with_the_demo(demo: Path, signum: signal.Signals) -> None:
    with Terminal(demo / "own", ["-m", "cli", "demo", "--nodes", "1"]) as terminal:
        terminal.until("1/1 nodes")
        nodes = processes(demo / "moe-cluster-demo-")
        assert nodes
        terminal.process.send_signal(signum)
        terminal.end()
        _, alive = psutil.wait_procs(nodes, timeout=PATIENCE_S)
        assert alive == []

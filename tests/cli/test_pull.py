"""pull, and run of a model that is not here, from a stand-in for the hub over real HTTP."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_moe.checkpoint import library
from tests.cli.terminal import Terminal
from tests.hub import Fault, Hub
from tests.patience import PATIENCE_S, until

DEMO = library.locate("demo")
WEIGHTS = "model.safetensors"
SIZE = (DEMO / WEIGHTS).stat().st_size
REPO = "org/tiny"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    shutil.copytree(DEMO, tmp_path / "served" / REPO)
    with Hub(tmp_path / "served") as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("MOE_CLUSTER_HOME", str(tmp_path / "home"))
        yield hub


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cli", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def moe_cluster(*arguments: str) -> tuple[int, str, str]:
    """Run a command to its end without a terminal."""
    process = start(*arguments)
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def test_a_pulled_model_is_whole_in_the_cache(hub: Hub) -> None:
    code, out, err = moe_cluster("pull", REPO, "--dry-run")
    assert (code, err) == (0, "")
    assert "6.4 MB of org/tiny at " in out.replace("6.5 MB", "6.4 MB")
    assert hub.total_sent(WEIGHTS) < SIZE / 10
    assert moe_cluster("pull", REPO)[0] == 0
    assert library.locate(REPO).joinpath(WEIGHTS).read_bytes() == (DEMO / WEIGHTS).read_bytes()
    sent = hub.total_sent(WEIGHTS)
    assert "is complete in" in moe_cluster("pull", REPO)[1]
    assert hub.total_sent(WEIGHTS) == sent
    (listed,) = json.loads(moe_cluster("ls", "--json")[1])
    assert (listed["name"], listed["place"], listed["state"]) == (REPO, "cache", "whole")


def test_a_killed_pull_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "served" / REPO / WEIGHTS).unlink()
    write_many_files(tmp_path / "served" / REPO, 6)
    hub.faults.append(Fault("stall", file="model-00006*", times=1 << 30, after_bytes=1 << 17))
    process = start("pull", REPO)
    staging = tmp_path / "cache" / "models--org--tiny" / "partial"
    until(lambda: len(list(staging.glob("*/model-0000[1-5]*.safetensors"))) == 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (listed,) = json.loads(moe_cluster("ls", "--json")[1])
    assert (listed["place"], listed["state"]) == ("download", "part")
    sent = hub.total_sent("model-0000[1-5]*")
    hub.faults.clear()
    assert moe_cluster("pull", REPO)[0] == 0
    assert hub.total_sent("model-0000[1-5]*") == sent
    assert moe_cluster("run", REPO, "--input-ids", "5,6,7", "--max-tokens", "2", "--temperature", "0")[0] == 0


def write_many_files(directory: Path, count: int) -> None:
    """Distribute the demo model's tensors over several files with an index."""
    from mlx_moe.checkpoint import tensor_file

    data = (DEMO / WEIGHTS).read_bytes()
    tensors = list(tensor_file.read(DEMO / WEIGHTS).tensors.values())
    places = {}
    for n in range(count):
        name, header, body = f"model-{n + 1:05}-of-{count:05}.safetensors", {}, b""
        for tensor in tensors[n::count]:
            span = [len(body), len(body) + tensor.nbytes]
            header[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": span}
            body += data[tensor.offset : tensor.offset + tensor.nbytes]
            places[tensor.name] = name
        text = json.dumps(header).encode()
        (directory / name).write_bytes(len(text).to_bytes(8, "little") + text + body)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))


def test_what_cannot_be_pulled_is_refused_before_any_weight_moves(hub: Hub, tmp_path: Path) -> None:
    hub.faults.append(Fault("gated", at="resolve"))
    code, _, err = moe_cluster("pull", REPO)
    assert code
    assert "hf auth login" in err
    hub.faults.clear()
    code, _, err = moe_cluster("pull", "org/absent")
    assert code
    assert "org/absent" in err
    config = tmp_path / "served" / REPO / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps(values | {"model_type": "gemma4_text"}))
    hub._repositories.clear()
    code, _, err = moe_cluster("pull", REPO)
    assert code
    assert "gemma4_text" in err
    assert moe_cluster("pull", str(DEMO))[0] == 2
    assert moe_cluster("pull", f"{REPO}@main", "--revision", "main")[0] == 2
    assert hub.total_sent(WEIGHTS) == 0


def test_no_room_is_told_with_the_numbers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from cli.pull import pull_here
    from mlx_moe.checkpoint import durable_file
    from mlx_moe.errors import CheckpointError

    monkeypatch.setattr(durable_file, "free_bytes", lambda _path: 1_000_000)
    with pytest.raises(CheckpointError, match=r"org/tiny needs 6.\d MB more on the disk of .*, which has 1.0 MB"):
        pull_here(REPO, dry_run=False, yes=True)
    assert hub.total_sent(WEIGHTS) < SIZE / 10


def test_run_pulls_what_is_not_here_after_a_question(hub: Hub, tmp_path: Path) -> None:
    arguments = ("run", REPO, "--input-ids", "5,6,7", "--max-tokens", "2", "--ignore-eos")
    code, _, err = moe_cluster(*arguments)
    assert code == 2
    assert f"`moe-cluster pull {REPO}` downloads it" in err
    with Terminal(tmp_path / "home", ["-m", "cli", *arguments], columns=400) as terminal:
        terminal.until("Download? [y/N]")
        terminal.type("n\r")
        assert terminal.end() == 6
    assert hub.total_sent(WEIGHTS) < SIZE / 10
    assert moe_cluster(*arguments, "--yes")[0] == 0
    assert library.locate(REPO).joinpath(WEIGHTS).stat().st_size == SIZE

"""ls and rm, as a person uses them."""

from __future__ import annotations

import io
import json
import time
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from cli import app
from cli.local import LocalModels
from cli.options import LoadOptions
from cluster.home import Home
from cluster.uses import Uses
from mlx_moe.checkpoint import library
from tests import stored
from tests.cli.terminal import Terminal

COMMIT, OTHER = "9de84537b6aa98de634ad0fbb1608e9d6a019355", "0d1e2f3a4b"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv(library.FOLDERS_VARIABLE, str(tmp_path / "folder"))
    monkeypatch.setenv("MOE_CLUSTER_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home")


def moe_cluster(*arguments: str, columns: int = 100) -> tuple[int, str, str]:
    """Run a command in this process; return its exit code and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("COLUMNS", str(columns))
        try:
            code = app.app(list(arguments), standalone_mode=False)
        except typer.Exit as end:
            code = end.exit_code
    return code or 0, out.getvalue(), err.getvalue()


def test_an_empty_disk_is_told_with_the_command_that_fills_it() -> None:
    code, out, _ = moe_cluster("ls")
    assert code == 0
    assert out.startswith("no model is on this machine; `moe-cluster pull MODEL` downloads one\n")
    assert moe_cluster("ls", "--json")[1] == "[]\n"


@pytest.fixture
def full(home: Home, tmp_path: Path) -> None:
    """One model of each kind."""
    whole = stored.in_cache("org/whole", COMMIT)
    Uses(home.uses).note(whole)
    damaged = stored.in_cache("org/damaged", COMMIT) / stored.WEIGHTS
    damaged.unlink()
    damaged.write_bytes(b"\0" * 100)
    other_family = stored.in_cache("org/other", OTHER) / "config.json"
    other_family.unlink()
    other_family.write_text('{"model_type": "gemma4"}')
    stored.in_part(home.models / "org--part" / COMMIT, 1, 2, 3)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").symlink_to(stored.DEMO)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("columns", [60, 80, 100])
def test_the_table_fits_and_says_what_is_here(columns: int) -> None:
    _, out, _ = moe_cluster("ls", columns=columns)
    table, _, notes = out.partition("org/damaged: ")
    assert max(map(len, table.splitlines())) <= columns
    rows = {line.split()[0]: line for line in table.splitlines()[2:]}
    assert list(rows) == ["org/damaged", "org/other", "org/whole", "mine", "org/part"]
    assert "damaged" in rows["org/damaged"].split()
    assert "layers 1-3" in rows["org/part"]
    assert "6.6 MB" in rows["org/whole"]
    assert "just now" in rows["org/whole"]
    assert ("gemma4 (not run)" in rows["org/other"]) == (columns > 60)
    assert "download it with `moe-cluster pull org/damaged`" in " ".join(notes.split())
    assert "free on the disk of" in notes


@pytest.mark.usefixtures("full")
def test_json_has_every_field() -> None:
    models = {model["name"]: model for model in json.loads(moe_cluster("ls", "--json")[1])}
    whole = models["org/whole"]
    assert (whole["place"], whole["state"], whole["revision"], whole["supported"]) == ("cache", "whole", COMMIT, True)
    assert abs(whole["used_at"] - time.time()) < 60
    assert models["org/part"]["layers"] == [1, 3]
    assert models["org/other"]["supported"] is False
    assert "its header is damaged" in models["org/damaged"]["damage"]


@pytest.mark.usefixtures("full")
def test_rm_wants_yes_where_nobody_can_be_asked() -> None:
    code, out, err = moe_cluster("rm", "org/whole")
    assert (code, out) == (2, "")
    assert err == "error: org/whole would free 6.6 MB; moe-cluster rm org/whole --yes deletes it\n"
    assert moe_cluster("rm", "org/whole", "--yes")[:2] == (0, "org/whole is deleted; 6.6 MB are free again\n")
    assert moe_cluster("rm", "org/whole", "--yes")[2].startswith("error: org/whole is not on this machine")
    assert moe_cluster("rm", "mine", "--yes")[0] == 2


def test_rm_keeps_what_a_process_of_this_machine_uses() -> None:
    path = stored.in_cache("org/whole", COMMIT)
    with closing(LocalModels(LoadOptions()).open("org/whole")):
        code, _, err = moe_cluster("rm", "org/whole", "--yes")
        assert code == 6
        assert "a process on this machine uses org/whole: end that first" in err
        assert err.endswith(f"`lsof {path}` shows it\n")
    assert moe_cluster("rm", "org/whole", "--yes")[0] == 0


@pytest.mark.usefixtures("full")
def test_rm_asks_a_person(home: Home) -> None:
    for answer, code, told in (("n", 6, "org/part stays"), ("y", 0, "org/part is deleted")):
        with Terminal(home.path, ["-m", "cli", "rm", "org/part"]) as terminal:
            terminal.until("Delete org/part from this machine and free")
            terminal.type(f"{answer}\r")
            assert terminal.end() == code
            assert told in terminal.text
    assert not (home.models / "org--part").exists()


class Node:
    """A node that serves a model, as `rm` asks it. `held` is what this machine's worker holds."""

    def __init__(self, served: str, held: str) -> None:
        own = SimpleNamespace(
            info=SimpleNamespace(node_id="one"),
            shown_name="mac-1",
            holding=SimpleNamespace(model=held) if held else None,
        )
        self._status = SimpleNamespace(own=own, serving=SimpleNamespace(model=served, node_ids=("one",)))

    def status(self) -> SimpleNamespace:
        return self._status

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize(("served", "held"), [("org/whole", ""), ("org/other", f"org/whole@{COMMIT}")])
def test_rm_keeps_what_the_node_holds_or_is_loading(monkeypatch: pytest.MonkeyPatch, served: str, held: str) -> None:
    monkeypatch.setattr("cli.rm.OwnNode.connect", lambda _home: Node(served, held))
    code, _, err = moe_cluster("rm", "org/whole", "--yes")
    assert code == 6
    assert err.endswith("which is org/whole: `moe-cluster unload` first\n")
    assert moe_cluster("rm", "org/part", "--yes")[0] == 0

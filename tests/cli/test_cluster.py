"""The cluster's commands, over three real nodes on this machine that were joined as a person joins them."""

from __future__ import annotations

import io
import json
import shutil
import socket
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

import mlx_moe
from cli import app
from cluster.home import Home
from cluster.node.options import NodeOptions
from tests.cli.terminal import CTRL_C, CTRL_D, Terminal
from tests.patience import PATIENCE_S, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),  # up --detach means it
]

DEMO = Path(mlx_moe.__file__).parent / "demo"
ROOT = Path(__file__).parents[2]
HERE = ("--host", "127.0.0.1", "--port", "0")
QUESTION = ("What is an expert?", "--temperature", "0", "--max-tokens", "12")


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: str
    err: str


def moe_cluster(home: Path, *arguments: str) -> Result:
    """Run a command on the machine of a home; in this process, which is quicker."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setenv("MOE_CLUSTER_HOME", str(home))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("COLUMNS", "100")
        try:
            code = app.app(list(arguments), standalone_mode=False)
        except typer.Exit as end:
            code = end.exit_code
    return Result(code or 0, out.getvalue(), err.getvalue())


def said(home: Path, *arguments: str) -> str:
    """Run a command that succeeds; return what it printed."""
    result = moe_cluster(home, *arguments)
    assert result.code == 0, result.err
    return result.out


def told(home: Path, *arguments: str) -> Any:
    return json.loads(said(home, *arguments, "--json"))


def join_token(text: str) -> str:
    return next(word for word in text.split() if word.startswith("MC1"))


def end(homes: Sequence[Path]) -> None:
    for home in homes:
        moe_cluster(home, "down")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Three nodes in the background: the first begins a cluster, the others join it by the line that it printed."""
    homes = [tmp_path_factory.mktemp(f"mac-{i}") for i in (1, 2, 3)]
    try:
        first = said(homes[0], "up", "--detach", "--new", "--name", "mac-1", *HERE)
        address = first.split("listens at ")[1].split()[0]
        assert f"MOE_CLUSTER_HOME=~/node-2 moe-cluster up --join - --port 0 --peer {address}" in first
        assert "On each other machine" not in first
        token = homes[0] / "token"
        token.write_text(f"  {join_token(first)}\n")
        for i, home in enumerate(homes[1:], start=2):
            (home / "hardware.json").write_bytes((homes[0] / "hardware.json").read_bytes())
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("MOE_CLUSTER_JOIN", join_token(first))
                join = ("--join", str(token), "--peer", address) if i == 2 else ("--peer", address)
                joined = said(home, "up", "--detach", *join, "--name", f"mac-{i}", "--memory", f"{i}GB", *HERE)
            assert f"mac-{i} is up" in joined
            assert "MC1" not in joined
        yield homes
    finally:
        end(homes)


def present(home: Path) -> dict[str, dict[str, Any]]:
    """Wait until a node sees all three; return them by name."""
    while True:  # until the test's timeout
        nodes = {node["name"]: node for node in told(home, "nodes") if node["state"] == "present"}
        if len(nodes) == 3:
            return nodes


def test_every_node_sees_all(homes: list[Path]) -> None:
    for home in homes:
        nodes = present(home)
        assert set(nodes) == {"mac-1", "mac-2", "mac-3"}
        assert (nodes["mac-2"]["offered_bytes"], nodes["mac-3"]["offered_bytes"]) == (2 * 10**9, 3 * 10**9)
    table = said(homes[1], "status")
    assert "no model is loaded" in table
    assert all(name in table for name in ("mac-1", "mac-2", "mac-3"))
    assert max(len(line) for line in table.splitlines()) <= 100


def test_a_model_planned_for_the_nodes_is_loaded_by_one_and_answers_on_another(homes: list[Path]) -> None:
    present(homes[0])
    plan = homes[0] / "plan.json"
    plan.write_text(said(homes[0], "plan", "demo", "--json"))
    assert "demo is ready" in said(homes[0], "up", "demo", "--plan", str(plan))
    for home in homes[1:]:
        while (told(home, "status")["model"] or {}).get("state") != "ready":
            pass  # it hears of it within a second
    answer = told(homes[1], "run", "demo", *QUESTION)
    alone = told(homes[1], "run", "demo", *QUESTION, "--local")
    assert answer["tokens"] == alone["tokens"]
    planned = json.loads(plan.read_text())["placement"]
    names = {node["node_id"]: node["name"] for node in told(homes[0], "nodes")}
    assert {part["node"] for part in answer["placement"]} == {names[node_id] for node_id in planned["node_bytes"]}
    status = told(homes[2], "status")
    assert status["model"]["state"] == "ready"
    assert status["model"]["coordinator"] == planned["stages"][0]["node_id"]
    assert "demo is unloaded" in said(homes[0], "unload")
    assert "no model was loaded" in said(homes[0], "unload")


def test_an_idle_model_gives_way_only_to_who_says_so(homes: list[Path], tmp_path: Path) -> None:
    other = str(shutil.copytree(DEMO, tmp_path / "other"))
    present(homes[0])
    said(homes[0], "up", "demo")
    stray = moe_cluster(homes[0], "run", other, *QUESTION)
    assert (stray.code, stray.out, stray.err.count("\n")) == (6, "", 1)
    assert f"the cluster serves demo, which is idle: --replace loads {other} in its place" in stray.err
    assert f"moe-cluster up {other}" in stray.err
    typo = moe_cluster(homes[0], "run", "dmeo", *QUESTION)
    assert (typo.code, typo.err) == (2, "error: no model 'dmeo' here; did you mean demo?\n")
    with Terminal(homes[0], ["-m", "cli", "run", "dmeo", *QUESTION]) as terminal:
        assert terminal.end() == 2
        assert "[y/N]" not in terminal.text
    for answer, code, served in (("n", 6, "demo"), ("y", 0, other)):
        with Terminal(homes[0], ["-m", "cli", "run", other, *QUESTION]) as terminal:
            terminal.until("The cluster serves demo. Load other in its place? [y/N]")
            terminal.type(f"{answer}\n")
            assert terminal.end() == code
            assert ("demo stays loaded" in terminal.text) == (answer == "n")
            assert "error:" not in terminal.text
        assert told(homes[0], "status")["model"]["name"] == served
    assert told(homes[0], "run", "demo", *QUESTION, "--replace")["tokens"]
    said(homes[0], "up", other)  # loading is all that it is for
    assert told(homes[0], "status")["model"]["name"] == other
    said(homes[0], "unload")


def test_the_doctor_finds_no_problem_in_a_running_cluster(homes: list[Path]) -> None:
    present(homes[0])
    examined = moe_cluster(homes[0], "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(examined.out)["checks"]}
    for name in ("node", "port", "certificates", "clocks", "directories"):
        assert checks[name]["state"] == "ok", checks[name]
    assert checks["node"]["found"][0].startswith("mac-1 answers in")
    for name in ("clocks", "links to nodes"):
        assert {"mac-2", "mac-3"} <= {found.split()[0] for found in checks[name]["found"]}
    assert len(checks["versions"]["found"]) == 1  # all have the same
    assert examined.code == (10 if json.loads(examined.out)["problems"] else 0)


def test_logs_of_other_nodes_can_be_read_and_have_no_prompts(homes: list[Path]) -> None:
    present(homes[0])
    if "event=answer_begun" not in "".join(said(homes[0], "logs", name) for name in ("mac-1", "mac-2", "mac-3")):
        said(homes[0], "run", "demo", *QUESTION)
    here = said(homes[0], "logs", "--lines", "2000")
    assert "event=up version=" in here
    everywhere = [said(home, "logs", name, "-n", "2000") for home in homes for name in ("mac-1", "mac-2", "mac-3")]
    assert "event=worker_started" in "".join(everywhere)
    assert any("event=answer_begun" in lines for lines in everywhere)
    for lines in (here, *everywhere):
        assert "expert?" not in lines
    assert not any(str(home) in lines for home in homes for lines in everywhere)
    unknown = moe_cluster(homes[0], "logs", "mac-9")
    assert (unknown.code, unknown.err) == (
        8,
        "error: node 'mac-9' is not here; present are mac-1, mac-2, mac-3\n",
    )


def test_logs_are_followed_until_ctrl_c(homes: list[Path]) -> None:
    with Terminal(homes[0], ["-m", "cli", "logs", "mac-1", "--follow", "-n", "1"]) as terminal:
        terminal.until(" INFO ")
        with (homes[0] / "logs" / "daemon.log").open("a") as log:
            log.write(f"2099-01-01 00:00:00,000 test INFO event=late file={homes[0]}\n")
        terminal.until("event=late file=$MOE_CLUSTER_HOME")
        terminal.type(CTRL_C)
        assert terminal.end() == 0


def test_a_report_has_the_logs_of_all_nodes_and_no_names(homes: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "r.tar.gz"
    assert f"{path} holds" in said(homes[0], "report", "-o", str(path))
    with tarfile.open(path) as archive:
        files = {entry.name: archive.extractfile(entry).read().decode() for entry in archive}  # type: ignore[union-attr]
    assert {"r/doctor.json", "r/status.json", "r/versions.json", "r/config/options.json"} <= files.keys()
    logs = [text for name, text in files.items() if name.startswith("r/logs/") and "event=" in text]
    assert len(logs) == 3
    assert len(json.loads(files["r/versions.json"])) == 3
    secret = next(home for home in homes if (home / "token").exists()) / "token"
    for hidden in (secret.read_text().strip(), "expert?", "mac-2", socket.gethostname(), *map(str, homes)):
        assert hidden not in "".join([*files, *files.values()])


def test_up_on_a_node_that_is_up_shows_how_it_stands(homes: list[Path]) -> None:
    assert "mac-1 is up already" in said(homes[0], "up")
    refused = moe_cluster(homes[0], "up", "--new")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "moe-cluster down" in refused.err


def test_tokens_are_made_listed_and_revoked_on_every_keeper(homes: list[Path]) -> None:
    before = len(told(homes[0], "token", "list"))
    created = moe_cluster(homes[0], "token", "create", "--uses", "2", "--hours", "1")
    assert (created.out[:3], created.out.count("\n"), len(created.out.split())) == ("MC1", 1, 1)  # to be piped
    assert "up --join -" in created.err
    assert len(told(homes[0], "token", "list")) == before + 1
    newest = told(homes[0], "token", "list")[-1]
    assert (newest["state"], newest["max_uses"]) == ("good", 2)
    said(homes[0], "token", "revoke", newest["id"])
    assert told(homes[0], "token", "list")[-1]["state"] == "revoked"
    assert "revoked" in said(homes[0], "token", "list")
    until(lambda: "authority kept by mac-1, mac-2, mac-3" in said(homes[0], "nodes"))
    until(lambda: told(homes[1], "token", "list") == told(homes[0], "token", "list"))


def test_a_wrong_token_is_refused_in_one_line(homes: list[Path], tmp_path: Path) -> None:
    token = join_token(said(homes[0], "token", "create"))
    address = told(homes[0], "nodes")[0]["addresses"][0]
    wrong = token[:-8] + "AAAAAAAA"
    for detach in ([], ["--detach"]):
        refused = moe_cluster(tmp_path, "up", *detach, "--join", wrong, "--peer", address, *HERE)
        assert refused.code == 7
        assert (refused.err[:7], refused.err.count("\n")) == ("error: ", 1)


def test_a_start_that_fails_begins_no_cluster(homes: list[Path], tmp_path: Path) -> None:
    (tmp_path / "hardware.json").write_bytes((homes[0] / "hardware.json").read_bytes())
    port = told(homes[0], "nodes")[0]["addresses"][0].rpartition(":")[2]
    for detach in ([], ["--detach"]):
        failed = moe_cluster(tmp_path, "up", *detach, "--new", "--host", "127.0.0.1", "--port", port)
        assert failed.code == 6
        assert failed.err.startswith("error: cannot listen on 127.0.0.1:")
        assert not (tmp_path / "authority").exists()
        assert not (tmp_path / "identity" / "certificates.pem").exists()
        assert not (tmp_path / "options.json").exists()
    assert moe_cluster(tmp_path, "token", "create").code == 9


def test_a_node_comes_again_as_it_was_and_gives_out_no_further_token(homes: list[Path]) -> None:
    tokens = told(homes[0], "token", "list")
    other = moe_cluster(homes[0], "up", "--memory", "1GB")
    assert (other.code, "down" in other.err) == (2, True)
    said(homes[0], "down")
    again = said(homes[0], "up", "--detach")
    assert "as before: --name mac-1 --host 127.0.0.1 --port 0" in again
    assert "mac-1 is up" in again
    assert "MC1" not in again
    assert told(homes[0], "token", "list") == tokens
    assert "up remembers --name mac-1" in said(homes[0], "status")
    present(homes[1])


def test_a_watch_and_a_chat_go_on_where_their_own_node_is_back(homes: list[Path]) -> None:
    present(homes[0])
    chatting = Terminal(homes[0], ["-m", "cli", "chat", "demo", "--temperature", "0"])
    with chatting as chat, Terminal(homes[0], ["-m", "cli", "status", "--watch"]) as watch:
        chat.until("/help lists")
        watch.until("this is mac-1")
        said(homes[0], "down")
        watch.until("moe-cluster up starts")
        watch.until("waiting for it")
        chat.type("Hello\r")
        chat.until("error: no node runs on this machine: moe-cluster up starts one")
        said(homes[0], "up", "--detach")  # at other ports than before
        watch.until("this is mac-1")
        watch.type(CTRL_C)
        assert watch.end() == 0
        chat.type("Hello\r")
        chat.until("How can I help")
        chat.type(CTRL_D)
        assert chat.end() == 0
    said(homes[0], "unload")


def test_who_goes_is_missed_by_the_others(homes: list[Path]) -> None:
    present(homes[0])
    assert said(homes[2], "down") == "mac-3 is down\n"
    nodes = {node["name"]: node["state"] for node in told(homes[0], "nodes")}
    assert nodes == {"mac-1": "present", "mac-2": "present", "mac-3": "left"}
    gone = moe_cluster(homes[2], "status")
    assert (gone.code, gone.out) == (9, "")
    assert "moe-cluster up" in gone.err


def test_who_leaves_is_a_stranger_and_keeps_its_chats(homes: list[Path]) -> None:
    home = Home(homes[2])
    chat = home.sessions / "chat.jsonl"
    chat.write_text("{}")
    assert "in no cluster any more" in said(home.path, "leave")
    assert not home.identity.exists()
    assert chat.exists()
    assert "--peer" not in NodeOptions.read(home.options).words()
    assert moe_cluster(home.path, "leave").code == 9


def test_a_node_is_removed_with_a_yes_by_its_name_and_not_oneself(homes: list[Path]) -> None:
    asked = moe_cluster(homes[0], "nodes", "remove", "mac-2")
    assert (asked.code, asked.err.count("\n")) == (2, 1)
    assert "moe-cluster nodes remove mac-2 --yes" in asked.err
    assert "there is no node mac-7" in moe_cluster(homes[0], "nodes", "remove", "mac-7", "--yes").err
    assert "moe-cluster leave" in moe_cluster(homes[0], "nodes", "remove", "mac-1", "--yes").err


def test_the_first_node_leaves_and_another_keeper_lets_others_in(homes: list[Path]) -> None:
    assert "in no cluster any more" in said(homes[0], "leave")
    assert not Home(homes[0]).authority.exists()
    assert moe_cluster(homes[0], "token", "list").code == 9
    assert moe_cluster(homes[1], "token", "create").out.startswith("MC1")
    until(lambda: "mac-1 (20" in said(homes[1], "nodes"))  # in the list of those that were removed


def test_a_node_in_the_foreground_tells_its_news_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    with Terminal(tmp_path, ["-m", "cli", "up", "demo", "--insecure", "--name", "mac-9", *HERE]) as terminal:
        terminal.until("mac-9 is up")
        terminal.until("INSECURE")
        terminal.until("demo is ready: moe-cluster chat")
        assert told(tmp_path, "status")["insecure"]
        assert "INSECURE" in said(tmp_path, "status")
        terminal.type(CTRL_C)
        terminal.until("mac-9 is down")
        assert terminal.end() == 0
    assert moe_cluster(tmp_path, "down").code == 9


def test_a_stranger_at_the_port_and_a_port_that_is_taken_put_nothing_of_grpc_on_the_terminal(tmp_path: Path) -> None:
    with Terminal(tmp_path / "one", ["-m", "cli", "up", "--new", "--name", "mac-9", *HERE]) as terminal:
        terminal.until("token create makes another")
        host, _, port = told(tmp_path / "one", "nodes")[0]["addresses"][0].rpartition(":")
        shown = terminal.text
        for hello in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05nonsense"):
            with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as stranger:
                stranger.sendall(hello)
                while stranger.recv(4096):
                    pass  # until it is cut off: then gRPC has said what it has to say
        with Terminal(tmp_path / "two", ["-m", "cli", "up", "--new", "--host", host, "--port", port]) as second:
            assert second.end() == 6
            lines = [line for line in second.text.splitlines() if line]
            assert lines[0].startswith("measuring this machine")
            assert lines[1].startswith("error: cannot listen on")
        terminal.type(CTRL_C)
        assert terminal.end() == 0
        after = terminal.text.strip().removeprefix(shown.strip())
        assert [line.split()[0] for line in after.splitlines() if line] == ["^Cstopping:", "mac-9"]


def test_a_model_that_does_not_fit_is_loaded_when_a_further_node_joins(tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    up = ["-m", "cli", "up", "demo", "--new", "--name", "mac-1", "--memory", "70MB", *HERE]
    with Terminal(small, up) as terminal:
        terminal.until("waiting for more nodes")
        token = join_token(said(small, "token", "create"))
        address = told(small, "nodes")[0]["addresses"][0]
        try:
            said(large, "up", "--detach", "--join", token, "--peer", address, "--name", "mac-2", *HERE)
            terminal.until("+ mac-2 joined")
            terminal.until("demo is ready")
        finally:
            end([large])
        terminal.until("mac-2 left")
        terminal.type(CTRL_C)
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "much"], "48GB"),
        (["--memory", "0GB"], "more than 0"),
        (["--peer", "nowhere"], "HOST:PORT"),
        (["--name", "a\x1b[31mb"], "visible characters"),
        (["--name", "m" * 64], "63 bytes"),
        (["--join", " "], "--join is empty"),
        (["--host", "192.0.2.200"], "is not an address of this machine"),
        (["--host", "no.such.host.invalid"], "--host :: listens at all of them"),
        (["--host", "127.0.0.1", "--peer", "192.0.2.200:7420"], "192.0.2.200:7420 could not reach this node"),
        (["--context", "5"], "MODEL"),
        (["--plan", "missing.json"], "missing.json"),
        (["no-such-model"], "no model"),
        (["--join", "MC1"], "whole join token"),
        (["--join", "no-such-file"], "no such file, and not a join token"),
        (["--join", f"MC1{'a' * 64}::{'b' * 32}", "--new"], "one of them"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_begun(tmp_path: Path, arguments: list[str], message: str) -> None:
    refused = moe_cluster(tmp_path, "up", *arguments)
    assert refused.code in (2, 7)
    assert message in refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "authority").exists()

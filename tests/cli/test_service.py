"""service: what it refuses and prints, and that the command in its file runs a node that SIGTERM ends."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from cli import service as service_file
from cluster.home import Home
from cluster.node.launchd import Launchd
from tests.cli.test_cluster import Result, moe_cluster
from tests.patience import PATIENCE_S, until
from tests.systemd_unit import value, words

ROOT = Path(__file__).parents[2]
HERE = ("--host", "127.0.0.1", "--port", "0")


@pytest.mark.slow
def test_the_command_of_a_unit_runs_a_node_until_sigterm(tmp_path: Path) -> None:
    home = Home(tmp_path / "a home")
    home.create()
    printed = moe_cluster(home.path, "service", "install", "--print", "--insecure", "--name", "mac 1", *HERE)
    assert printed.code == 0, printed.err
    command = words(value(printed.out, "ExecStart"))
    settings = [
        words(line.partition("=")[2])[0] for line in printed.out.splitlines() if line.startswith("Environment=")
    ]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | dict(
        setting.split("=", 1) for setting in settings
    )
    with (tmp_path / "errors").open("wb") as errors:
        node = subprocess.Popen(command, env=environment, cwd=home.path, stdout=errors, stderr=errors)
    try:
        until(lambda: home.daemon.exists() or node.poll() is not None)
        assert node.poll() is None, (tmp_path / "errors").read_text()
        assert "mac 1" in moe_cluster(home.path, "status").out
        refused = moe_cluster(home.path, "service", "install", "--insecure")
        assert (refused.code, "a node runs on this machine" in refused.err) == (6, True)
        node.send_signal(signal.SIGTERM)
        assert node.wait(PATIENCE_S) == 0
    finally:
        node.kill()
    assert (tmp_path / "errors").read_text() == ""


@pytest.fixture
def mac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have the service of a Mac and the rights of a person; return the directory of its daemons."""
    monkeypatch.setattr(service_file, "_manager", lambda _system: Launchd(tmp_path / "daemons"))
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    return tmp_path / "daemons"


def refused(home: Path, *arguments: str) -> Result:
    result = moe_cluster(home, "service", *arguments)
    assert result.code != 0
    return result


def test_a_person_without_rights_is_told_what_to_paste(tmp_path: Path, mac: Path) -> None:
    result = refused(tmp_path, "install", "--insecure", "--name", "studio", "demo")
    install, bootstrap = result.out.splitlines()
    staged = tmp_path / "service" / "org.moe-cluster.node.plist"
    assert install == f"sudo install -m 644 {staged} {mac}/org.moe-cluster.node.plist"
    assert bootstrap == f"sudo launchctl bootstrap system {mac}/org.moe-cluster.node.plist"
    assert "paste this" in result.err
    assert "<string>studio</string>" in staged.read_text()
    assert not mac.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("install", "--join", "x"), "--join is not for a service: a token is valid for a while only"),
        (("install", "--detach"), "--detach is not for a service"),
        (("install",), "this machine is in no cluster yet"),
        (("uninstall",), "there is no service"),
        (("status",), "no service is installed: moe-cluster service install"),
        (("install", "--memroy", "4GB"), "o such option: --memroy"),
    ],
)
def test_what_makes_no_service_is_refused(tmp_path: Path, mac: Path, arguments: list[str], message: str) -> None:
    result = refused(tmp_path, *arguments)
    assert message in result.err
    assert not mac.exists()


def test_a_model_that_is_a_directory_is_found_from_anywhere(
    tmp_path: Path, mac: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not mac.exists()
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    printed = moe_cluster(tmp_path, "service", "install", "--print", "model", "--serve").out
    assert f"<string>{tmp_path / 'model'}</string>" in printed
    assert "<string>--serve</string>" in printed  # the node serves the APIs again after each start

"""Service files: what they say, read back by the formats' own rules, and the commands around them."""

from __future__ import annotations

import plistlib
import shlex
import shutil
import string
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.node import service as module
from cluster.node.launchd import LABEL, Launchd
from cluster.node.service import Service, install_script, uninstall_script
from cluster.node.systemd import UNIT, Systemd, quoted
from tests.systemd_unit import value, words

COMMAND = ("/opt/moe cluster/bin/moe-cluster", "up", "--silent", "--name", "100% $HOME", "--memory", "48GB", "m\\x")
SERVICE = Service(
    COMMAND,
    "jane",
    {"HOME": "/Users/jane", "MOE_CLUSTER_HOME": "/Users/jane/Library/Application Support/moe-cluster"},
    Path("/Users/jane/Library/Application Support/moe-cluster"),
    Path("/Users/jane/Library/Application Support/moe-cluster/logs/service.log"),
)
SYSTEM, USER = Systemd(is_system=True), Systemd(is_system=False, user="jane", directory=Path("/home/jane/units"))


def test_a_launch_daemon_runs_the_command_as_its_user_and_has_time_to_end() -> None:
    told = plistlib.loads(Launchd().text(SERVICE).encode())
    assert told["ProgramArguments"] == list(COMMAND)
    assert (told["Label"], told["UserName"]) == (LABEL, "jane")
    assert told["EnvironmentVariables"]["MOE_CLUSTER_HOME"].endswith("Application Support/moe-cluster")
    assert told["ExitTimeOut"] >= 30
    assert told["ThrottleInterval"] >= 10
    assert told["KeepAlive"] == {"SuccessfulExit": False}
    assert told["RunAtLoad"] is True
    assert told["SoftResourceLimits"]["NumberOfFiles"] > 256
    assert str(Launchd().path) == f"/Library/LaunchDaemons/{LABEL}.plist"


@pytest.mark.parametrize("manager", [SYSTEM, USER])
def test_a_unit_runs_the_command_and_has_time_to_end(manager: Systemd) -> None:
    text = manager.text(SERVICE)
    assert words(value(text, "ExecStart")) == list(COMMAND)
    assert ("User=jane" in text) == manager.is_system
    assert int(value(text, "TimeoutStopSec")) >= 30
    assert value(text, "Restart") == "on-failure"
    assert words(value(text, "Environment")) == ["HOME=/Users/jane"]


printable = st.text(string.ascii_letters + string.digits + " %$\"'\\;=-_/äß€", max_size=12)


@given(st.lists(printable, max_size=4))
def test_a_unit_keeps_every_word_as_it_was_typed(typed: list[str]) -> None:
    assert words(" ".join(map(quoted, typed))) == typed


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("scope", ["--system", "--user"])
def test_systemd_finds_no_fault_in_a_unit(tmp_path: Path, scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    service = Service(("/bin/sh", *COMMAND[1:]), "root", SERVICE.environment, tmp_path, tmp_path / "errors")
    unit = tmp_path / UNIT
    unit.write_text(Systemd(is_system=scope == "--system").text(service))
    checked = subprocess.run(
        ["systemd-analyze", "verify", scope, "--man=no", str(unit)], capture_output=True, text=True
    )
    complaints = [line for line in checked.stderr.splitlines() if UNIT in line]
    assert (checked.returncode, complaints) == (0, []), checked.stderr


def test_what_root_has_to_type_is_complete() -> None:
    staged = Path("/Users/jane/Library/Application Support/moe-cluster/service") / f"{LABEL}.plist"
    first, second = install_script(Launchd(), staged).splitlines()
    assert shlex.split(first) == ["sudo", "install", "-m", "644", str(staged), str(Launchd().path)]
    assert second == f"sudo launchctl bootstrap system {Launchd().path}"
    assert uninstall_script(Launchd()).splitlines() == [
        f"sudo launchctl bootout system/{LABEL}",
        f"sudo rm {Launchd().path}",
    ]


def test_a_unit_of_a_user_outlives_the_login() -> None:
    assert ("loginctl", "enable-linger", "jane") in USER.install()
    assert all("--user" in command for command in (*USER.install()[:2], *USER.uninstall(), USER.status()))


RUNNING = """system/org.moe-cluster.node = {
\tactive count = 1
\tpath = /Library/LaunchDaemons/org.moe-cluster.node.plist
\ttype = LaunchDaemon
\tstate = running

\tprogram = /Users/jane/.local/bin/moe-cluster
\tdomain = system
\tminimum runtime = 15
\texit timeout = 45
\truns = 2
\tpid = 812
\timmediate reason = speculative
\tforks = 3
\tlast exit code = 9
}
"""


def test_the_status_of_launchd_is_read() -> None:
    status = Launchd().parse_status(RUNNING)
    assert (status.is_installed, status.pid) == (True, 812)
    assert status.detail == "running, started 2 times, last exit code 9"
    assert not Launchd().parse_status("").is_installed


def test_the_status_of_systemd_is_read() -> None:
    said = "MainPID=812\nNRestarts=1\nLoadState=loaded\nActiveState=active\nSubState=running\nUnitFileState=enabled\n"
    status = SYSTEM.parse_status(said)
    assert (status.is_installed, status.pid) == (True, 812)
    assert status.detail == "active (running), enabled, restarted 1 times"
    assert not SYSTEM.parse_status("LoadState=not-found\nMainPID=0\n").is_installed
    assert not SYSTEM.parse_status("").is_installed


def test_a_service_keeps_no_token() -> None:
    assert not any("TOKEN" in name or "KEY" in name for name in module.KEPT_VARIABLES)

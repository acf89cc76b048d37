"""doctor on the terminal: what it shows at each width, without a node, and its exit code."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cli import doctor as doctor_command
from cluster.doctor import Finding, State
from cluster.node.options import NodeOptions

ROOT = Path(__file__).parents[2]


def test_a_problem_ends_with_its_cure_and_a_code_of_its_own(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = NodeOptions(host="127.0.0.1", port=taken.getsockname()[1])
        options.write(tmp_path / "options.json")
        environment = {**os.environ, "MOE_CLUSTER_HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hf")}
        command = [sys.executable, "-m", "cli", "doctor", "--json"]
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (10, "")
    checks = {check["name"]: check for check in json.loads(ended.stdout)["checks"]}
    assert (checks["port"]["state"], checks["port"]["cures"]) == ("problem", ["moe-cluster up --port 0"])
    assert {"memory limit", "interfaces", "multicast", "disk", "node", "certificates", "versions"} <= checks.keys()


FINDINGS = (
    Finding("memory limit", State.OK, ("the GPU may use 51.5 GB of 68.7 GB, macOS's default", "no memory pressure")),
    Finding("killed for memory", State.NOT_CHECKED, ("ls: /Library/Logs/DiagnosticReports: Permission denied",)),
    Finding("sleep", State.WARNING, ("it sleeps after 10 min without use",), ("sudo pmset -a sleep 0 autorestart 1",)),
    Finding(
        "firewall", State.PROBLEM, ("it blocks \x1b[31mPython",), ("sudo socketfilterfw --unblockapp " + "/x" * 60,)
    ),
)


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_findings_fit_the_terminal_and_cures_can_be_pasted(columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    doctor_command.show(FINDINGS, Console(width=columns, markup=False, emoji=False, highlight=False))
    lines = capsys.readouterr().out.splitlines()
    (cure,) = FINDINGS[3].cures
    assert f"  {cure}" in lines
    assert max(len(line) for line in lines if cure not in line) <= columns
    assert "1 problem, 1 warning; 1 not checked" in lines
    assert "\x1b" not in "".join(lines)


def test_no_mlx_is_imported() -> None:
    script = "import sys, cli.doctor; print('mlx.core' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert output.stdout == "False\n"

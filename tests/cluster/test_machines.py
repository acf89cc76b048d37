"""Whole nodes on several machines, which are network namespaces: they find each other over multicast alone."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts
from tests.cluster.running import ROOT, RunningNode, processes_with
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.slow

STATUS = """
import json, sys
from pathlib import Path
from cluster.client import OwnNode
from cluster.home import Home

with OwnNode.connect(Home(Path(sys.argv[1]))) as own:
    status = own.status()
    model = own.load("demo") if "load" in sys.argv else ()
    for _ in model:
        pass
    print(json.dumps({node.shown_name: node.state for node in status.nodes}))
"""


class Machine:
    """A namespace with a node in it."""

    def __init__(self, hosts: Hosts, namespace: str, directory: Path, name: str, hardware: Path) -> None:
        self._stack = hosts.stack
        self._prefix = ("ip", "netns", "exec", namespace)
        directory.mkdir()
        shutil.copy(hardware, directory / "hardware.json")
        self.node = RunningNode(directory, name, host="", prefix=self._prefix)

    def start(self, *options: str) -> None:
        self.node.start(*options)
        self._stack.enter_context(self.node.process)
        self._stack.callback(self.node.process.kill)

    def states(self) -> dict[str, str]:
        """Return the state of all nodes, as this one sees them."""
        return dict(json.loads(self._ask()))

    def load_demo(self) -> None:
        self._ask("load")

    def _ask(self, *options: str) -> str:
        command = (*self._prefix, sys.executable, "-c", STATUS, str(self.node.home.path), *options)
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S)
        assert ran.returncode == 0, ran.stderr[-1000:]
        return ran.stdout


@pytest.fixture
def machines(hosts: Hosts, tmp_path: Path, measured_hardware: Path) -> Iterator[list[Machine]]:
    namespaces = hosts.connect(3)
    yield [
        Machine(hosts, namespace, tmp_path / f"node-{n}", f"mac-{n}", measured_hardware)
        for n, namespace in enumerate(namespaces, 1)
    ]
    for process in processes_with(str(tmp_path)):
        process.kill()


def test_three_machines_become_a_cluster_by_a_token_and_notice_a_loss(machines: list[Machine]) -> None:
    first, second, third = machines
    first.start("--new")
    first.node.wait_up()

    second.start()  # without a token
    assert second.node.process.wait(PATIENCE_S) == 1
    assert "mac-1 (10.77.0.1:" in second.node.said
    assert "join it with a token of its first node" in second.node.said

    for machine in (second, third):
        machine.start("--join", first.node.token())
    second.node.wait_up()
    third.node.wait_up()
    everybody = dict.fromkeys(("mac-1", "mac-2", "mac-3"), "present")
    until(lambda: all(machine.states() == everybody for machine in machines))

    first.load_demo()
    third.node.process.kill()
    until(lambda: first.states() == second.states() == everybody | {"mac-3": "lost"})

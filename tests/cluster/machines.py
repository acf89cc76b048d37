"""Machine: a node in a network namespace, and what it says of the cluster while the test goes on."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from cluster.membership.address import split
from tests.cluster.hosts import Hosts
from tests.cluster.running import ROOT, RunningNode
from tests.patience import PATIENCE_S

WATCH = """
import json, sys, time
from pathlib import Path
from cluster.client import OwnNode
from cluster.home import Home

with OwnNode.connect(Home(Path(sys.argv[1]))) as own:
    while True:
        status = own.status()
        nodes = {node.shown_name: [node.state, *node.info.addresses] for node in status.nodes}
        ids = {node.shown_name: node.info.node_id for node in status.nodes}
        epoch = status.ready.epoch if status.ready else 0
        print(json.dumps({"nodes": nodes, "ids": ids, "epoch": epoch}), flush=True)
        time.sleep(0.1)
"""

LOAD = """
import json, sys
from pathlib import Path
from cluster.client import OwnNode, Wanted
from cluster.home import Home
from cluster.placement import Placement

placement = Placement.from_json(json.loads(sys.argv[2])) if sys.argv[2:] else None
with OwnNode.connect(Home(Path(sys.argv[1]))) as own:
    for _ in own.load(Wanted("demo", placement)):
        pass
"""


class Machine:
    """A namespace with a node in it."""

    def __init__(self, hosts: Hosts, namespace: str, directory: Path, name: str, hardware: Path) -> None:
        self.namespace = namespace
        self.node = RunningNode(directory, name, host="", prefix=("ip", "netns", "exec", namespace))
        self._stack = hosts.stack
        self._told: dict[str, Any] = {}
        directory.mkdir()
        shutil.copy(hardware, directory / "hardware.json")

    def start(self, *options: str) -> None:
        self.node.start(*options)
        self._stack.enter_context(self.node.process)
        self._stack.callback(self.node.process.kill)

    def wait_up(self) -> None:
        """Wait until it is up, and follow what it says from then on."""
        self.node.wait_up()
        watcher = subprocess.Popen(self.python(WATCH), stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._stack.enter_context(watcher)
        self._stack.callback(watcher.kill)
        threading.Thread(target=self._follow, args=(watcher,), daemon=True).start()

    @property
    def nodes(self) -> dict[str, list[str]]:
        """The state of all nodes, as this one sees them, and their addresses without the port."""
        told: dict[str, list[str]] = self._told.get("nodes", {})
        return {name: [state, *(split(at)[0] for at in addresses)] for name, (state, *addresses) in told.items()}

    @property
    def states(self) -> dict[str, str]:
        """The state alone."""
        return {name: state for name, (state, *_) in self.nodes.items()}

    @property
    def ids(self) -> dict[str, str]:
        """The nodes' ids."""
        return dict(self._told["ids"])

    @property
    def epoch(self) -> int:
        """The epoch of the model that is ready, 0 if none is."""
        return int(self._told["epoch"])

    def load_demo(self, placement: str | None = None) -> None:
        """Load a model, on nodes of a placement (JSON) if one is given."""
        command = self.python(LOAD, *([placement] if placement else []))
        ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S)
        assert ran.returncode == 0, ran.stderr[-1000:]

    def python(self, program: str, *arguments: str) -> list[str]:
        home = str(self.node.home.path)
        return ["ip", "netns", "exec", self.namespace, sys.executable, "-c", program, home, *arguments]

    def _follow(self, watcher: subprocess.Popen[str]) -> None:
        assert watcher.stdout is not None
        for line in watcher.stdout:
            self._told = json.loads(line)

"""A running cluster for tests: daemons as real processes on loopback, their workers, and clients of them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil

from cluster.client import Holding, OwnNode, RemoteConversation, RemoteModel, Wanted
from cluster.home import Home
from cluster.placement import ExpertPeer, Placement, StagePlacement
from cluster.trust import Authority, MutualTLS, NodeIdentity, TokenStore
from cluster.wire import coordinator_pb2_grpc
from mlx_moe.decoding.request import Request, Token
from tests.patience import PATIENCE_S, until

ROOT = Path(__file__).parents[2]

WORKERS = {"cluster.worker", "tests.faults.worker"}
"""The modules that run in workers."""


class RunningNode:
    """A daemon; `prefix` is what its command begins with, to run it elsewhere."""

    def __init__(self, home: Path, name: str, host: str = "127.0.0.1", prefix: Sequence[str] = ()) -> None:
        self.home = Home(home)
        self.name = name
        self.node_id = ""  # until it was up
        self._host = host
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._log = home.with_suffix(".log")

    def start(self, *options: str) -> None:
        command = (*self._prefix, sys.executable, "-m", "tests.cluster.node")
        arguments = (str(self.home.path), self.name, self._host, *options)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log, cwd=ROOT)

    @property
    def said(self) -> str:
        """All that it printed."""
        return self._log.read_text()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def address(self) -> str:
        return str(self._announced()["address"])

    def wait_up(self) -> None:
        until(lambda: self.home.daemon.exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said
        self.node_id = str(self._announced()["node_id"])

    def workers(self) -> list[psutil.Process]:
        return [p for p in processes_with(str(self.home.path)) if WORKERS.intersection(p.info["cmdline"])]

    def token(self) -> str:
        """Return a join token; only of the node that began the cluster."""
        return TokenStore(self.home.tokens, Authority.load(self.home.authority).key_hash).create().text

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.home.daemon.unlink(missing_ok=True)  # so that `wait_up` waits for the next one's

    def end(self) -> int:
        """End it as `down` does; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def _announced(self) -> dict[str, object]:
        announced: dict[str, object] = json.loads(self.home.daemon.read_text())
        return announced


def processes_with(argument: str) -> Iterator[psutil.Process]:
    """Return the processes whose command line has a text in it."""
    for process in psutil.process_iter(["cmdline"]):
        if any(argument in part for part in process.info["cmdline"] or ()):
            yield process


class Cluster:
    """Nodes that are all present to each other. The first one began it, and is the one that is asked."""

    def __init__(
        self, directory: Path, n_nodes: int, prefixes: Sequence[Sequence[str]] = (), options: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.options = options
        self.nodes = [
            RunningNode(directory / f"node-{n}", f"mac-{n}", prefix=prefixes[n - 1] if prefixes else ())
            for n in range(1, n_nodes + 1)
        ]
        self.model: RemoteModel | None = None

    def start(self, hardware: Path) -> None:
        first, *others = self.nodes
        for node in self.nodes:
            node.home.path.mkdir(parents=True)
            shutil.copy(hardware, node.home.hardware)
        first.start("--new", *self.options)
        first.wait_up()
        self.own = OwnNode.connect(first.home)
        for node in others:
            self.join(node)
        self.wait_for_all()

    def join(self, node: RunningNode) -> None:
        node.start("--join", self.nodes[0].token(), "--peer", self.nodes[0].address, *self.options)

    def wait_for_all(self) -> None:
        for node in self.nodes:
            node.wait_up()
        wanted = {node.address for node in self.nodes}
        until(lambda: self.present() == wanted)

    def present(self) -> set[str]:
        """Return where the nodes are that count; one that was killed does for seconds."""
        return {node.info.addresses[0] for node in self.own.status().here.values()}

    def holding(self, node: RunningNode) -> Holding:
        """Return what a node says that its worker holds; all zeros where it has none."""
        node_id = node.node_id
        held = next(status.holding for status in self.own.status().nodes if status.info.node_id == node_id)
        return held or Holding("", 0, 0, range(0), 0, False, False, 0)

    def load(self, model: str, placement: Placement | None = None, *, reconfigure: bool = False) -> RemoteModel:
        """Load a model in place of what is loaded; return the client of its coordinator.

        Where the same model is loaded, `reconfigure` lets its workers go on with what they hold.
        """
        if reconfigure and self.model is not None:
            self.model.close()
        else:
            self.unload()
        for _ in self.own.load(Wanted(model, placement, replace=True)):
            pass
        self.model = self.own.model(self.own.status())
        return self.model

    def unload(self) -> None:
        if self.model is not None:
            self.model.close()
            self.model = None
        self.own.unload("the test is done with it")

    def place(
        self,
        model: str,
        layers: Sequence[int],
        owners: Sequence[int] = (),
        *,
        n_experts: int = 0,
        moe_layers: range = range(0),
        kv_positions: int = 16384,
    ) -> Placement:
        """Return a placement of stages of so many layers; `owners` is how many share the experts of each stage."""
        free = iter(self.nodes)
        stages, start = [], 0
        for n_layers, n_owners in zip(layers, [*owners, *[1] * (len(layers) - len(owners))], strict=True):
            span = range(start, start + n_layers)
            leader, *peers = (next(free).node_id for _ in range(n_owners))
            split = [layer for layer in span if layer in moe_layers] if peers else []
            shares = [tuple(range(share, n_experts, n_owners)) for share in range(n_owners)]
            stages.append(
                StagePlacement(
                    leader,
                    span,
                    dict.fromkeys(split, shares[0]),
                    tuple(ExpertPeer(peer, dict.fromkeys(split, shares[i])) for i, peer in enumerate(peers, 1)),
                )
            )
            start = span.stop
        return Placement(model, "", tuple(stages), 512, 8, kv_positions, {})

    def end(self) -> None:
        """End all nodes; see that nothing is left."""
        self.own.close()
        for node in self.nodes:
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        codes = [node.process.wait(PATIENCE_S) for node in self.nodes]
        until(lambda: not list(processes_with(str(self.directory))))
        assert set(codes) <= {0, -signal.SIGKILL}, [node.said[-2000:] for node in self.nodes]


@contextmanager
def running_cluster(
    directory: Path,
    n_nodes: int,
    hardware: Path,
    prefixes: Sequence[Sequence[str]] = (),
    options: Sequence[str] = (),
) -> Iterator[Cluster]:
    """Run a cluster, each node behind its prefix; whatever happens, no process of it is left."""
    cluster = Cluster(directory, n_nodes, prefixes, options)
    try:
        cluster.start(hardware)
        yield cluster
        cluster.end()
    finally:
        for process in processes_with(str(directory)):
            process.kill()


@contextmanager
def coordinator_stub(cluster: Cluster) -> Iterator[coordinator_pb2_grpc.CoordinatorStub]:
    """Yield what says to the coordinator of the cluster's model what no client of ours would."""
    first, status = cluster.nodes[0], cluster.own.status()
    credentials = MutualTLS(NodeIdentity.load(first.home.identity))
    assert status.serving is not None
    with credentials.channel(status.coordinator_address, status.serving.coordinator) as channel:
        yield coordinator_pb2_grpc.CoordinatorStub(channel)


def answer(model: RemoteModel, request: Request, conversation: RemoteConversation | None = None) -> list[Token]:
    """Return the tokens of an answer, in a conversation of its own unless one is given."""
    own = conversation or model.new_conversation()
    try:
        return list(own.answer(request))
    finally:
        if conversation is None:
            own.close()


def answers(model: RemoteModel, requests: Sequence[Request]) -> list[list[Token]]:
    """Return the tokens of answers that are written all at once."""
    with ThreadPoolExecutor(len(requests)) as threads:
        return list(threads.map(lambda request: answer(model, request), requests))

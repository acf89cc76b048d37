"""Nodes: real daemons of one cluster on this machine, each pinned to given cores, and the model that they serve.

The daemons are child processes with homes of their own; a daemon's worker inherits its cores.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import MappingProxyType

import psutil

from bench.measurement import prompt_ids
from cluster.client import NodeStatus, OwnNode, RemoteModel, Wanted
from cluster.cost_reader import read_costs
from cluster.daemon.admission import admit
from cluster.daemon.daemon import Daemon, Settings
from cluster.errors import NoClusterError
from cluster.home import Home
from cluster.placement import Placement, spread
from cluster.trust import Authority, TokenStore
from mlx_moe.decoding.request import Request

START_S = 60.0
STOP_S = 20.0
POLL_S = 0.05

CONTEXT_TOKENS = 2048
CONCURRENCY = 8


class Nodes:
    """Running nodes, accessed through the first one."""

    def __init__(
        self, own: OwnNode, daemons: Sequence[psutil.Process], homes: Sequence[Home], stack: ExitStack
    ) -> None:
        self.own = own
        self.daemons = daemons
        self.homes = homes
        self._stack = stack

    def load(
        self,
        checkpoint: str,
        layer_splits: Sequence[int],
        expert_peers: Sequence[int] = (),
        context_tokens: int = CONTEXT_TOKENS,
    ) -> RemoteModel:
        """Load a model, replacing the previous one; the lists have the layers and expert peers of each stage."""
        placement = self.placement(checkpoint, layer_splits, expert_peers, context_tokens)
        self.unload()  # asked for first: an answer just read still counts as running
        for _ in self.own.load(Wanted(checkpoint, placement)):
            pass
        return self.model()

    def placement(
        self,
        checkpoint: str,
        layer_splits: Sequence[int],
        expert_peers: Sequence[int] = (),
        context_tokens: int = CONTEXT_TOKENS,
    ) -> Placement:
        """Return a placement with the layers and expert peers of each stage."""
        return spread(
            read_costs(checkpoint, float_bytes=4),
            sorted(self.own.status().capacities(), key=lambda node: node.name),
            layer_splits=layer_splits,
            expert_peers=expert_peers,
            context_tokens=context_tokens,
            concurrency=CONCURRENCY,
        )

    def model(self) -> RemoteModel:
        """Return the loaded model; it is closed at the end."""
        return self._stack.enter_context(closing(self.own.model(self.own.status())))

    def unload(self) -> None:
        """Unload the model."""
        self.own.unload("the next placement is measured")

    def status(self) -> list[NodeStatus]:
        """Return the status of the nodes, the first one first."""
        return sorted(self.own.status().nodes, key=lambda node: node.shown_name)

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes, in the order of their nodes."""
        return [child for daemon in self.daemons for child in daemon.children() if "cluster.worker" in child.cmdline()]


@contextmanager
def running_nodes(cores: Sequence[set[int]], first_environment: Mapping[str, str] | None = None) -> Iterator[Nodes]:
    """Start a node for each set of cores, all in one cluster; stop them after the block.

    `first_environment` are variables that only the first node has.
    """
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        first = Home(base / "1")
        processes = [stack.enter_context(_node(first, cores[0], environment=first_environment or {}))]
        _wait(first.daemon.exists, "the first node")
        own = stack.enter_context(OwnNode.connect(first))
        address = own.status().nodes[0].info.addresses[0]
        token = TokenStore(first.tokens, Authority.load(first.authority).key_hash).create().text
        for number, its_cores in enumerate(cores[1:], start=2):
            home = Home(base / str(number))
            home.create()
            shutil.copy(first.hardware, home.hardware)  # the same machine, and measuring it takes seconds
            processes.append(stack.enter_context(_node(home, its_cores, token, address)))
        own.wait_for_nodes(len(cores))
        homes = [Home(base / str(number)) for number in range(1, len(cores) + 1)]
        yield Nodes(own, [psutil.Process(process.pid) for process in processes], homes, stack)


def greedy(prompt_tokens: int, answer_tokens: int, seed: int = 1) -> Request:
    """Return a request of random ids whose answer has exactly `answer_tokens` tokens."""
    return Request.exactly(prompt_ids(prompt_tokens, seed=seed), answer_tokens)


@contextmanager
def _node(
    home: Home, cores: set[int], *joining: str, environment: Mapping[str, str] = MappingProxyType({})
) -> Iterator[subprocess.Popen[bytes]]:
    listed = ",".join(map(str, sorted(cores)))
    command = [sys.executable, "-m", "bench.nodes", str(home.path), listed, *joining]
    with (home.path.parent / f"{home.path.name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(STOP_S)


def _wait(is_so: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_S
    while not is_so():
        if time.monotonic() > deadline:
            raise NoClusterError(f"{what} did not come up within {START_S:g} s")
        time.sleep(POLL_S)


async def _run(home: Home, token: str | None = None, peer: str | None = None) -> None:
    """Run a node until SIGTERM."""
    peers = (peer,) if peer else ()
    admission = await admit(home, token, peers, insecure=False, new=True)
    settings = Settings(name=f"node-{home.path.name}", host="127.0.0.1", port=0, peers=peers)
    await Daemon(home, settings, admission, lambda _: None, lambda _: None).run()


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(core) for core in sys.argv[2].split(",")})
    asyncio.run(_run(Home(Path(sys.argv[1])), *sys.argv[3:5]))

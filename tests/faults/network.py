"""Network: toxic proxies between the nodes of a running cluster, one for each node as its only way to the others.

Daemons and workers dial through their node's proxy (see `way_out`); the program that asks a node, such as the test,
does not. Needs no rights, and no addresses but loopback.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psutil

from tests.cluster.running import RunningNode
from tests.faults.proxy import Link, Opened, ToxicProxy
from tests.faults.toxics import BLACK_HOLE, NONE, Toxics
from tests.faults.way_out import VARIABLE
from tests.patience import PATIENCE_S

T = TypeVar("T")


class Network:
    """The ways between nodes, which are numbered from 0, of a cluster that has begun."""

    def __init__(self, n_nodes: int, seed: int = 0) -> None:
        self._nodes: Sequence[RunningNode] = ()
        self._ways: dict[tuple[int, int], Toxics] = {}
        self._proxies = [ToxicProxy(self._opener(n), seed + n) for n in range(n_nodes)]
        self._owners: dict[Link, int] = {}
        self._targets: dict[Link, int | None] = {}
        self._ports: dict[int, int] = {}  # whose they are
        self._finding: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def prefixes(self) -> list[tuple[str, ...]]:
        """What the command of each node begins with, so that it dials through its proxy."""
        return [("env", f"{VARIABLE}=127.0.0.1:{proxy.port}", "no_proxy=") for proxy in self._proxies]

    def begin(self, nodes: Sequence[RunningNode]) -> None:
        """Take the nodes of a running cluster, whose links are known from now on."""
        self._nodes = nodes
        self._targets = {link: self._owner_of(link) for link in list(self._targets)}

    def one_way(self, source: int, target: int, toxics: Toxics) -> None:
        """Set what happens to bytes from one node to another, whichever of them opened the connection."""
        self._ways[source, target] = toxics
        for link in self.links(source, target):
            self._spoil(link)

    def between(self, one: int, other: int, toxics: Toxics) -> None:
        """Set what happens to bytes between two nodes, in both directions."""
        self.one_way(one, other, toxics)
        self.one_way(other, one, toxics)

    def around(self, node: int, toxics: Toxics) -> None:
        """Set what happens to bytes from and to a node."""
        for other in range(len(self._proxies)):
            if other != node:
                self.between(node, other, toxics)

    def isolate(self, node: int) -> None:
        """Let nothing pass from and to a node, without closing anything."""
        self.around(node, BLACK_HOLE)

    def heal(self) -> None:
        """Let everything pass again."""
        for source, target in list(self._ways):
            self.one_way(source, target, NONE)

    def reset(self, one: int, other: int) -> int:
        """Reset the open connections between two nodes; return how many there were."""
        links = self.links(one, other)
        for link in links:
            link.reset()
        return len(links)

    def links(self, one: int, other: int) -> list[Link]:
        """Return the open connections between two nodes."""
        targets = list(self._targets.items())
        return [link for link, to in targets if link.is_open and {self._owners[link], to} == {one, other}]

    def start(self) -> None:
        """Open the proxies' ports."""
        self._thread.start()
        for proxy in self._proxies:
            self._run(proxy.start())

    def close(self) -> None:
        """Close all proxies."""
        for proxy in self._proxies:
            self._run(proxy.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def _opener(self, source: int) -> Opened:
        async def opened(link: Link) -> None:
            self._owners = {known: n for known, n in self._owners.items() if known.is_open} | {link: source}
            self._targets = {known: n for known, n in self._targets.items() if known.is_open} | {link: None}
            finding = asyncio.create_task(self._find(link))
            if any(toxics != NONE for toxics in self._ways.values()):
                await finding  # else it is not waited for: a connection has little time on a busy machine
            else:
                self._finding.add(finding)
                finding.add_done_callback(self._finding.discard)

        return opened

    async def _find(self, link: Link) -> None:
        target = await asyncio.to_thread(self._owner_of, link)
        if link in self._targets:
            self._targets[link] = target
            self._spoil(link)

    def _owner_of(self, link: Link) -> int | None:
        port = int(link.target.rpartition(":")[2])
        if port not in self._ports and (owner := owner_of(port, self._nodes)) is not None:
            self._ports[port] = owner
        return self._ports.get(port)

    def _spoil(self, link: Link) -> None:
        source, target = self._owners.get(link), self._targets.get(link)
        if source is not None and target is not None:  # else it has closed meanwhile, or is the test's
            link.there = self._ways.get((source, target), NONE)
            link.back = self._ways.get((target, source), NONE)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)


def owner_of(port: int, nodes: Sequence[RunningNode]) -> int | None:
    """Return which node listens at a port, with its daemon or its worker; None for a program of the test."""
    return next((n for n, node in enumerate(nodes) if port in _ports_of(node)), None)


def _ports_of(node: RunningNode) -> set[int]:
    ports: set[int] = set()
    with suppress(psutil.Error):  # it has ended
        daemon = psutil.Process(node.process.pid)
        for process in (daemon, *daemon.children()):
            ports |= {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return ports


@contextmanager
def network(n_nodes: int, seed: int = 0) -> Iterator[Network]:
    """Run the proxies of nodes."""
    running = Network(n_nodes, seed)
    running.start()
    try:
        yield running
    finally:
        running.close()

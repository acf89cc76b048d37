"""Discovery: over loopback, and between machines that are network namespaces on a bridge. Nothing leaves this host."""

import asyncio
import json
import logging
import secrets
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from cluster.membership import discovery
from cluster.membership.discovery import SERVICE, Announcement, discover
from tests.cluster.hosts import Hosts
from tests.patience import PATIENCE_S

ANNOUNCER = """
import asyncio, json, sys
from cluster.membership import discovery
from cluster.membership.address import join, own_ips
from cluster.membership.discovery import Announcement, discover

n = int(sys.argv[1])
discovery.RESOLVE_MS = int(sys.argv[2])

async def main():
    own = Announcement(f"{n:016x}", f"mac-{n}", "", "0.1.0", tuple(join(ip, 7000 + n) for ip in own_ips()))
    found = lambda other: print(json.dumps([other.node_id, other.addresses]), flush=True)
    discovering = asyncio.create_task(discover(found, lambda: own))
    await asyncio.to_thread(sys.stdin.read)
    discovering.cancel()
    await asyncio.wait([discovering])

asyncio.run(main())
"""

LOOKER = """
import asyncio, json
from cluster.membership.discovery import look

names = set()

def all_three(found):
    names.add(found.name)
    return len(names) == 3

asyncio.run(look(1e4, all_three))
print(json.dumps(sorted(names)))
"""


RESOLVE_MS = int(1000 * PATIENCE_S)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Miss no announcement where the machine is busy."""
    monkeypatch.setattr(discovery, "RESOLVE_MS", RESOLVE_MS)


CLUSTER = secrets.token_hex(8)
"""Of all that these tests announce on loopback, where real nodes and other runs of the tests may be too."""


def announcement(n: int) -> Announcement:
    node_id = f"{CLUSTER[1:]}{n}"
    return Announcement(node_id, f"mac-{n}", CLUSTER, "0.1.0", (f"127.0.0.1:{7000 + n}",), enrols=n == 1)


class Heard:
    """What one `discover` found of what these tests announce, and tasks to wait for it."""

    def __init__(self) -> None:
        self.all: list[Announcement] = []
        self._news = asyncio.Event()

    def __call__(self, found: Announcement) -> None:
        if found.cluster_id == CLUSTER:
            self.all.append(found)
            self._news.set()

    async def until(self, condition: Callable[[list[Announcement]], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition(self.all):
                self._news.clear()
                await self._news.wait()


class Nodes(asyncio.TaskGroup):
    """Discoveries in this process, cancelled at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._discovering: list[asyncio.Task[None]] = []

    def start(self, own: Callable[[], Announcement | None]) -> Heard:
        heard = Heard()
        self._discovering.append(self.create_task(discover(heard, own)))
        return heard

    def stop(self) -> None:
        for task in self._discovering:
            task.cancel()


def test_nodes_on_one_host_find_each_other_and_what_they_announce() -> None:
    async def scenario() -> None:
        async with Nodes() as nodes:
            first, second = nodes.start(lambda: announcement(1)), nodes.start(lambda: announcement(2))
            await first.until(bool)
            await second.until(bool)
            nodes.stop()
        assert first.all == [announcement(2)]
        assert second.all == [announcement(1)]

    asyncio.run(scenario())


def test_a_changed_announcement_is_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "CHECK_S", 0.05)
    changed = replace(announcement(1), name="renamed")
    current = announcement(1)

    async def scenario() -> None:
        nonlocal current
        async with Nodes() as nodes:
            nodes.start(lambda: current)
            heard = nodes.start(lambda: announcement(2))
            await heard.until(bool)
            current = changed
            await heard.until(lambda found: changed in found)
            nodes.stop()

    asyncio.run(scenario())


def test_two_nodes_with_one_id_are_both_found() -> None:
    copy = replace(announcement(1), addresses=("127.0.0.1:8000",))

    async def scenario() -> None:
        async with Nodes() as nodes:
            first = nodes.start(lambda: announcement(1))
            third = nodes.start(lambda: announcement(3))
            await third.until(lambda found: announcement(1) in found)
            second = nodes.start(lambda: copy)
            await third.until(lambda found: copy in found)
            await first.until(lambda found: copy in found)
            await second.until(lambda found: announcement(1) in found)
            nodes.stop()

    asyncio.run(scenario())


def test_announcements_that_no_node_makes_are_ignored() -> None:
    good: dict[str, Any] = {
        "id": announcement(9).node_id,
        "name": "mac",
        "cluster": CLUSTER,
        "version": "0.1.0",
        "enrol": "0",
    }
    bad: list[dict[str, Any]] = [
        {},
        good | {"id": "A" * 16},
        good | {"id": "../../etc/passwd"},
        good | {"name": ""},
        good | {"name": "\x1b]0;title\x07"},
        good | {"name": "m" * 64},
        good | {"name": b"\xff\n\xfe"},
        good | {"cluster": "c" * 17},
        good | {"version": "one"},
    ]

    async def scenario() -> None:
        async with Nodes() as nodes, AsyncZeroconf(interfaces=["127.0.0.1"]) as stranger:
            heard = nodes.start(lambda: announcement(2))
            infos = [
                AsyncServiceInfo(
                    SERVICE,
                    f"{CLUSTER}-{n}.{SERVICE}",
                    port=9,
                    properties=said,
                    server=f"{CLUSTER}-{n}.local.",
                    parsed_addresses=["127.0.0.1"],
                )
                for n, said in enumerate([*bad, good])
            ]
            said = [await stranger.async_register_service(info, cooperating_responders=True) for info in infos[:-1]]
            await asyncio.gather(*said)
            await stranger.async_register_service(infos[-1], cooperating_responders=True)
            await heard.until(bool)
            nodes.stop()
        assert [found.node_id for found in heard.all] == [good["id"]]

    asyncio.run(scenario())


def test_without_multicast_a_node_goes_on_and_says_how_to_name_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "CHECK_S", 0.01)
    asked = 0

    def own() -> Announcement:
        nonlocal asked
        asked += 1
        return replace(announcement(1), addresses=("[::1]:7001",))

    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_S), Nodes() as nodes:
            nodes.start(own)
            while asked < 5:
                await asyncio.sleep(0)
            nodes.stop()

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert [record.message for record in caplog.records if "--peer" in record.message] == caplog.messages
    assert len(caplog.messages) == 1


class Announcer:
    """A process that announces node n, and prints whom it finds."""

    def __init__(self, stack: ExitStack, namespace: str, n: int) -> None:
        command = ["ip", "netns", "exec", namespace, sys.executable, "-c", ANNOUNCER, str(n), str(RESOLVE_MS)]
        # Unbuffered: a line must not wait here, read already, while select waits for it
        self._process = subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._found: list[tuple[str, str]] = []
        stack.enter_context(self._process)
        stack.callback(self._process.kill)

    def finds(self, n: int, address: str) -> None:
        """Wait until it has found node n at an address, once more than this was asked before."""
        assert self._process.stdout is not None
        end = time.monotonic() + PATIENCE_S
        while (f"{n:016x}", address) not in self._found:
            readable, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            assert readable, f"node {n} at {address} is not found within {PATIENCE_S} s, but {self._found}"
            node_id, addresses = json.loads(self._process.stdout.readline())
            self._found += [(node_id, each) for each in addresses]
        self._found.remove((f"{n:016x}", address))

    def stop(self) -> None:
        """Let it say goodbye and end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(PATIENCE_S) == 0


def test_three_machines_find_each_other_and_one_that_comes_back(hosts: Hosts) -> None:
    namespaces = hosts.connect(3)
    nodes = {n: Announcer(hosts.stack, namespace, n) for n, namespace in enumerate(namespaces, 1)}
    for n, other in ((n, other) for n in nodes for other in nodes if n < other):
        nodes[n].finds(other, f"10.77.0.{other}:{7000 + other}")
    nodes[3].finds(1, "10.77.0.1:7001")
    nodes[3].stop()
    again = Announcer(hosts.stack, namespaces[2], 3)
    again.finds(1, "10.77.0.1:7001")
    nodes[1].finds(3, "10.77.0.3:7003")


def test_three_nodes_on_a_machine_without_network_find_each_other(hosts: Hosts) -> None:
    alone = hosts.add("a")
    nodes = {n: Announcer(hosts.stack, alone, n) for n in (1, 2, 3)}
    nodes[1].finds(2, "127.0.0.1:7002")
    nodes[1].finds(3, "127.0.0.1:7003")
    nodes[3].finds(1, "127.0.0.1:7001")
    command = ["ip", "netns", "exec", alone, sys.executable, "-c", LOOKER]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout
    assert json.loads(output) == ["mac-1", "mac-2", "mac-3"]

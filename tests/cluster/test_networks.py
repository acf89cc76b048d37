"""Networks that change under running nodes: addresses, interfaces and cuts, between network namespaces."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.membership.contacts import TIMEOUT_S
from cluster.placement import Placement, StagePlacement
from tests.cluster.hosts import Hosts, ip
from tests.cluster.machines import Machine
from tests.cluster.running import processes_with
from tests.patience import until

pytestmark = pytest.mark.slow

CUT_S = 3 * TIMEOUT_S
"""Long enough for a node that does not answer to be greeted but seldom."""


class Pair:
    """Two machines with eth0 on one bridge, `switch`, down and without addresses."""

    def __init__(self, hosts: Hosts, directory: Path, hardware: Path) -> None:
        self.namespaces = [hosts.add("1"), hosts.add("2")]
        self.switch = hosts.join(self.namespaces, "eth0")
        self.machines = [
            Machine(hosts, namespace, directory / f"node-{n}", f"mac-{n}", hardware)
            for n, namespace in enumerate(self.namespaces, 1)
        ]

    def begin(self) -> None:
        """Start the first machine's node."""
        self.machines[0].start("--new")
        self.machines[0].wait_up()

    def meet(self) -> None:
        """Let the second machine's node join, found by multicast."""
        first, second = self.machines
        second.start("--join", first.node.token())
        second.wait_up()

    def address(self, n: int, address: str, interface: str = "eth0") -> None:
        """Give machine n another address."""
        host = self.namespaces[n - 1]
        ip(host, "addr", "flush", "dev", interface)
        ip(host, "link", "set", interface, "addrgenmode", "none")  # else it has an IPv6 address that none gave it
        ip(host, "addr", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
        ip(host, "link", "set", interface, "up")

    def until_at(self, *addresses: tuple[str, ...]) -> None:
        """Wait until both nodes see both at these addresses."""
        wanted = {f"mac-{n}": ["present", *found] for n, found in enumerate(addresses, 1)}
        began = time.monotonic()
        until(lambda: all(machine.nodes == wanted for machine in self.machines))
        print(f"{addresses}: {time.monotonic() - began:.1f} s")

    def load(self) -> None:
        """Load the demo, half on each machine."""
        ids = self.machines[0].ids
        stages = tuple(StagePlacement(ids[f"mac-{n}"], range(3 * n - 3, 3 * n), {}, ()) for n in (1, 2))
        self.machines[0].load_demo(json.dumps(Placement("demo", "", stages, 256, 1, 4096, {}).to_json()))

    def happenings(self, *kinds: str) -> list[list[str]]:
        """Return what each machine's node said happened, of some kinds, in order."""
        lines = [machine.node.said.splitlines() for machine in self.machines]
        return [[word for line in said for word in line.split()[:1] if word in kinds] for said in lines]


@pytest.fixture
def pair(hosts: Hosts, tmp_path: Path, measured_hardware: Path) -> Iterator[Pair]:
    yield Pair(hosts, tmp_path, measured_hardware)
    for process in processes_with(str(tmp_path)):
        process.kill()


def test_nodes_are_found_again_whatever_becomes_of_their_addresses(hosts: Hosts, pair: Pair) -> None:
    pair.begin()  # before its network
    pair.address(1, "10.77.0.1/24")
    pair.address(2, "10.77.0.2/24")
    pair.meet()
    pair.until_at(("10.77.0.1",), ("10.77.0.2",))

    pair.address(1, "10.77.0.51/24")
    pair.until_at(("10.77.0.51",), ("10.77.0.2",))
    pair.address(2, "10.77.0.52/24")
    pair.until_at(("10.77.0.51",), ("10.77.0.52",))
    pair.address(1, "10.77.1.1/24")
    pair.address(2, "10.77.1.2/24")
    pair.until_at(("10.77.1.1",), ("10.77.1.2",))

    hosts.join(pair.namespaces, "eth1")
    for n in (1, 2):
        pair.address(n, f"10.88.0.{n}/24", "eth1")
    pair.until_at(("10.77.1.1", "10.88.0.1"), ("10.77.1.2", "10.88.0.2"))
    ip(pair.namespaces[0], "link", "set", "eth0", "down")
    pair.until_at(("10.88.0.1",), ("10.77.1.2", "10.88.0.2"))
    ip(pair.namespaces[0], "link", "set", "eth1", "down")
    ip(pair.namespaces[0], "link", "set", "eth0", "up")
    pair.until_at(("10.77.1.1",), ("10.77.1.2", "10.88.0.2"))


def test_a_cut_is_told_once_and_a_model_is_loaded_again_after_a_new_address(pair: Pair) -> None:
    pair.address(1, "10.77.0.1/24")
    pair.address(2, "10.77.0.2/24")
    pair.begin()
    pair.meet()
    pair.until_at(("10.77.0.1",), ("10.77.0.2",))

    ip(pair.switch, "link", "set", "port1", "nomaster")
    time.sleep(CUT_S)  # what is tested: not a wait for something
    until(lambda: pair.happenings("lost") == [["lost"]] * 2)
    ip(pair.switch, "link", "set", "port1", "master", "bridge")
    pair.until_at(("10.77.0.1",), ("10.77.0.2",))
    pair.load()
    assert pair.happenings("lost", "back") == [["lost", "back"]] * 2

    until(lambda: all(machine.epoch for machine in pair.machines))
    before = pair.machines[0].epoch
    pair.address(1, "10.77.0.51/24")
    until(lambda: all(machine.epoch > before for machine in pair.machines))  # what was lost is repaired
    pair.until_at(("10.77.0.51",), ("10.77.0.2",))
    pair.load()


def test_nodes_on_a_link_that_has_but_link_local_ipv6_find_each_other_and_load(pair: Pair) -> None:
    for n in (1, 2):
        pair.address(n, f"fe80::{n}/64")
    pair.begin()
    pair.meet()
    pair.until_at(("fe80::1",), ("fe80::2",))
    pair.load()

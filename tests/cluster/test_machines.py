"""Whole nodes on several machines, which are network namespaces: they find each other over multicast alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Hosts
from tests.cluster.machines import Machine
from tests.cluster.running import processes_with
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.slow


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
    first.wait_up()

    second.start()  # without a token
    assert second.node.process.wait(PATIENCE_S) == 1
    assert "mac-1 (10.77.0.1:" in second.node.said
    assert "to join it, type moe-cluster token create there" in second.node.said

    for machine in (second, third):
        machine.start("--join", first.node.token())
    second.wait_up()
    third.wait_up()
    everybody = dict.fromkeys(("mac-1", "mac-2", "mac-3"), "present")
    until(lambda: all(machine.states == everybody for machine in machines))

    first.load_demo()
    third.node.process.kill()
    until(lambda: first.states == second.states == everybody | {"mac-3": "lost"})

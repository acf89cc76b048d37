"""The network of proxies: what nodes and workers say to each other passes it, and is spoiled by pairs of nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.running import Cluster, running_cluster
from tests.cluster.test_losses import request
from tests.faults.network import Network, network
from tests.faults.toxics import NONE, Toxics
from tests.patience import until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[tuple[Cluster, Network]]:
    directory = tmp_path_factory.mktemp("network")
    with network(2) as between, running_cluster(directory, 2, measured_hardware, between.prefixes) as cluster:
        between.begin(cluster.nodes)
        yield cluster, between


def test_daemons_and_workers_reach_each_other_through_the_proxies_alone(running: tuple[Cluster, Network]) -> None:
    cluster, between = running
    model = cluster.load("demo", cluster.place("demo", (3, 3)))

    def targets() -> set[str]:
        return {link.target for link in between.links(0, 1)}

    until(lambda: {node.address for node in cluster.nodes} < targets())  # daemons
    until(lambda: len(targets()) == 4)  # and workers
    between.between(0, 1, Toxics(latency_s=0.02))
    answered = model.new_conversation().answer(request())
    assert len(list(answered)) == 8
    between.heal()
    assert all(link.there == link.back == NONE for link in between.links(0, 1))


def test_a_reset_closes_the_links_between_two_nodes(running: tuple[Cluster, Network]) -> None:
    _, between = running
    links = between.links(0, 1)
    assert between.reset(0, 1) == len(links) > 0
    until(lambda: not any(link.is_open for link in links))
    until(lambda: between.links(0, 1))  # and they are opened again

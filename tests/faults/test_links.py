"""Links between workers that break while both ends live: the answer stalls, and no position is computed twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.client import Wanted
from tests.cluster.running import Cluster, answer, running_cluster
from tests.cluster.test_recovery import request
from tests.faults.network import Network, network
from tests.faults.proxy import Link
from tests.patience import until

pytestmark = pytest.mark.slow

PROMPT = tuple(range(30, 90))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[tuple[Cluster, Network]]:
    directory = tmp_path_factory.mktemp("links")
    with network(3) as between, running_cluster(directory, 3, measured_hardware, between.prefixes) as cluster:
        between.begin(cluster.nodes)
        yield cluster, between


def links_of_workers(cluster: Cluster, between: Network) -> list[Link]:
    daemons = {node.address for node in cluster.nodes}
    return [
        link
        for one, other in ((0, 1), (1, 2), (2, 0))
        for link in between.links(one, other)
        if link.target not in daemons
    ]


@pytest.mark.parametrize("owners", [(), (1, 2)], ids=["three stages", "an expert peer"])
def test_links_that_are_reset_again_and_again_lose_nothing_and_compute_nothing_twice(
    running: tuple[Cluster, Network], owners: tuple[int, ...]
) -> None:
    cluster, between = running
    layers = (2, 4) if owners else (2, 2, 2)
    placement = cluster.place("demo", layers, owners, n_experts=16, moe_layers=range(1, 6))
    list(cluster.own.load(Wanted("demo", placement, draft="none", replace=True)))  # drafts would be computed besides
    model = cluster.own.model(cluster.own.status())
    wanted = answer(model, request(PROMPT))
    before = [cluster.holding(node).epoch for node in cluster.nodes]
    written = model.new_conversation().answer(request(PROMPT))
    tokens = []
    for token in written:
        tokens.append(token)
        if len(tokens) % 10 == 1:
            links = links_of_workers(cluster, between)
            assert links
            for link in links:
                link.reset()
    assert tokens == wanted
    assert written.stats.waited_s == 0
    assert [cluster.holding(node).epoch for node in cluster.nodes] == before
    positions = 2 * (len(PROMPT) + len(wanted) - 1)
    stages = [node for node in cluster.nodes if cluster.holding(node).leads]
    until(lambda: all(cluster.holding(node).stats.positions >= positions for node in stages))
    assert {cluster.holding(node).stats.positions for node in stages} == {positions}
    model.close()


def test_calls_between_daemons_that_are_reset_change_no_placement_and_disturb_no_answer(
    running: tuple[Cluster, Network],
) -> None:
    cluster, between = running
    model = cluster.load("demo", cluster.place("demo", (2, 2, 2)))
    wanted = answer(model, request(PROMPT))
    before = [cluster.holding(node).epoch for node in cluster.nodes]
    daemons = {node.address for node in cluster.nodes}
    written = model.new_conversation().answer(request(PROMPT))
    tokens = []
    for token in written:
        tokens.append(token)
        if len(tokens) % 10 == 1:
            links = [link for one, other in ((0, 1), (1, 2), (2, 0)) for link in between.links(one, other)]
            for link in links:
                if link.target in daemons:
                    link.reset()
    assert tokens == wanted
    assert written.stats.waited_s == 0
    workers = {worker.pid for node in cluster.nodes for worker in node.workers()}
    cluster.unload()
    until(lambda: not any(node.workers() for node in cluster.nodes))  # they are told on the calls that were made again
    cluster.load("demo", cluster.place("demo", (2, 2, 2)))
    assert [cluster.holding(node).epoch for node in cluster.nodes] == [epoch + 1 for epoch in before]
    assert not workers & {worker.pid for node in cluster.nodes for worker in node.workers()}

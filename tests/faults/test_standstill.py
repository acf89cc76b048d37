"""Nodes and workers that stand still: for 3 s a stall and nothing more; longer, and the answer goes on elsewhere."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from cluster.client import RemoteModel
from mlx_moe.decoding.request import Token
from tests.cluster.running import Cluster, RunningNode, answer, running_cluster
from tests.cluster.test_recovery import LAYERS, request
from tests.faults import stuck
from tests.faults.network import network
from tests.patience import until

pytestmark = pytest.mark.slow

PROMPT = tuple(range(30, 90))
STALL_S = 3.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    with (
        network(3) as between,  # its workers can be made stuck
        running_cluster(tmp_path_factory.mktemp("standstill"), 3, measured_hardware, between.prefixes) as running,
    ):
        between.begin(running.nodes)
        yield running


@pytest.fixture
def model(cluster: Cluster) -> RemoteModel:
    cluster.wait_for_all()
    return cluster.load("demo", cluster.place("demo", LAYERS), reconfigure=True)


@pytest.fixture
def wanted(model: RemoteModel) -> list[Token]:
    return answer(model, request(PROMPT))


def worker_of(node: RunningNode) -> psutil.Process:
    (worker,) = node.workers()
    return worker


def test_nodes_that_stand_still_for_three_seconds_are_a_stall_and_nothing_more(
    cluster: Cluster, model: RemoteModel, wanted: list[Token]
) -> None:
    before = [worker_of(node).pid for node in cluster.nodes]
    written = model.new_conversation().answer(request(PROMPT))
    tokens = [next(written) for _ in range(3)]
    stopped = [process for node in cluster.nodes[1:] for process in (worker_of(node), psutil.Process(node.process.pid))]
    with ThreadPoolExecutor(1) as reader:
        for process in stopped:
            process.suspend()
        rest = reader.submit(list, written)
        time.sleep(STALL_S)  # the fault itself
        for process in stopped:
            process.resume()
        tokens += rest.result()
    assert tokens == wanted
    assert written.stats.waited_s == 0
    assert [worker_of(node).pid for node in cluster.nodes] == before


def stop(node: RunningNode) -> None:
    worker_of(node).send_signal(signal.SIGSTOP)


def stick_thread(node: RunningNode) -> None:
    worker_of(node).send_signal(stuck.IN_THREAD)


def stick_loop(node: RunningNode) -> None:
    worker_of(node).send_signal(stuck.IN_LOOP)


@pytest.mark.parametrize(
    ("stand_still", "reason"),
    [
        (stop, "the worker said nothing for 4.5 s and was killed"),
        (stick_thread, "the worker is stuck: a step of a "),
        (stick_loop, "the worker is stuck: a step of a "),
    ],
    ids=["stopped", "computing thread", "event loop"],
)
def test_a_worker_that_stands_still_is_killed_and_the_answer_goes_on(
    cluster: Cluster,
    model: RemoteModel,
    wanted: list[Token],
    stand_still: Callable[[RunningNode], None],
    reason: str,
) -> None:
    written = model.new_conversation().answer(request(PROMPT))
    tokens = [next(written) for _ in range(3)]
    worker = worker_of(cluster.nodes[1])
    stand_still(cluster.nodes[1])
    assert tokens + list(written) == wanted
    assert f"node mac-2: {reason}" in written.stats.waited_for
    assert not worker.is_running()


def test_a_node_that_stands_still_for_long_is_lost_and_one_that_goes_on_again_rejoins(
    cluster: Cluster, model: RemoteModel, wanted: list[Token]
) -> None:
    written = model.new_conversation().answer(request(PROMPT))
    tokens = [next(written) for _ in range(3)]
    node = cluster.nodes[2]
    worker = worker_of(node)
    for process in (worker, psutil.Process(node.process.pid)):
        process.suspend()
    assert tokens + list(written) == wanted
    assert "node mac-3" in written.stats.waited_for
    for process in (worker, psutil.Process(node.process.pid)):
        process.resume()
    cluster.wait_for_all()
    until(lambda: not worker.is_running())
    assert answer(model, request(PROMPT)) == wanted

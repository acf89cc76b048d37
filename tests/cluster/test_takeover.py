"""Takeover: a model outlives the loss of its coordinator, and what the others hold is not read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import mlx_moe
from cluster.client import OwnNode, RemoteAnswer, ServingStatus, Waiting, Wanted
from cluster.errors import TrustError, UnloadedError
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request, Token
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import Cluster, RunningNode, answer, running_cluster
from tests.cluster.test_reconfigure import missing_bytes
from tests.patience import until

pytestmark = pytest.mark.slow

N_TOKENS = 40
PROMPT = tuple(range(30, 90))
LAYERS = (2, 2, 2)


def request(max_tokens: int | None = N_TOKENS) -> Request:
    sampling = SamplingParams(temperature=1.2, top_p=0.9, seed=7)
    return Request(PROMPT, sampling, max_tokens=max_tokens, ignore_eos=True, detect_loops=False)


@pytest.fixture(scope="module")
def wanted() -> list[Token]:
    """Return what one machine that loses nothing answers."""
    with closing(mlx_moe.load("demo", chunks=DEFAULT_RULE)) as model:
        return list(model.generate(request()))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("takeover"), 3, measured_hardware) as running:
        yield running


@pytest.fixture
def second(cluster: Cluster) -> Iterator[OwnNode]:
    """Yield the node beside the first, while all are there."""
    first, *others = cluster.nodes
    if first.process.poll() is not None:
        first.start("--peer", others[0].address)
        first.wait_up()
    cluster.wait_for_all()
    with OwnNode.connect(others[0].home) as own:
        yield own


def kill_worker(node: RunningNode) -> None:
    (worker,) = node.workers()
    worker.kill()


def ready(own: OwnNode, after: int) -> ServingStatus | None:
    served = own.status().ready
    return served if served is not None and served.epoch > after else None


def read(written: RemoteAnswer, count: int) -> list[Token]:
    return [next(written) for _ in range(count)]


@pytest.mark.parametrize("kill", [kill_worker, RunningNode.kill], ids=["worker", "daemon"])
def test_an_answer_goes_on_with_the_workers_that_are_left(
    cluster: Cluster, second: OwnNode, wanted: list[Token], kill: Callable[[RunningNode], None]
) -> None:
    placement = cluster.place("demo", LAYERS)
    cluster.unload()
    list(cluster.own.load(Wanted("demo", placement, draft="none")))
    until(lambda: ready(second, 0) is not None)
    before = ready(second, 0)
    assert before is not None
    kept = [worker.pid for node in cluster.nodes[1:] for worker in node.workers()]
    with closing(second.model(second.status())) as model, ThreadPoolExecutor(1) as threads:
        waits: list[Waiting | None] = []
        written = model.new_conversation().answer(request(), waiting=waits.append)
        tokens = read(written, 7)
        kill(cluster.nodes[0])
        another = threads.submit(answer, model, request())
        assert tokens + list(written) == wanted
        assert written.finish_reason == "length"
        assert "node mac-1" in written.stats.waited_for
        assert written.stats.waited_s > 0
        assert any("node mac-1" in wait.cause for wait in waits if wait is not None)  # once it is known
        assert waits[-1] is None
        assert another.result() == wanted
    assert ready(second, before.epoch) is not None
    assert [worker.pid for node in cluster.nodes[1:] for worker in node.workers()] == kept
    *_, last = second.load(Wanted("demo"))
    assert last.placement is not None
    read_bytes = {node.name: node.total_bytes for node in last.nodes if node.total_bytes}
    first, *others = placement.stages
    held = replace(placement, stages=(replace(first, node_id="0" * 16), *others))  # what the lost worker held is lost
    assert read_bytes == missing_bytes(cluster, held, last.placement)


def test_unloading_ends_an_answer_that_waits_and_says_so(cluster: Cluster, second: OwnNode) -> None:
    model = cluster.load("demo", cluster.place("demo", LAYERS))
    written = model.new_conversation().answer(request(max_tokens=None))
    read(written, 3)
    kill_worker(cluster.nodes[1])
    second.unload("somebody needs the memory")
    with pytest.raises(UnloadedError, match="demo is not served any more: somebody needs the memory"):
        list(written)


def test_who_loaded_it_may_unload_it_in_use_although_others_have_had_it_since(
    cluster: Cluster, second: OwnNode
) -> None:
    first, taker, loader = cluster.nodes
    cluster.unload()
    with OwnNode.connect(loader.home) as own:
        list(own.load(Wanted("demo", cluster.place("demo", (2, 4)), draft="none")))
    until(lambda: ready(second, 0) is not None)
    first.kill()
    until(lambda: (served := second.status().ready) and served.coordinator == taker.node_id)
    loader.kill()  # it may have got a part
    until(lambda: (served := second.status().ready) and served.node_ids == (taker.node_id,))
    for node in (first, loader):
        node.start("--peer", taker.address)
        node.wait_up()
    with closing(second.model(second.status())) as model:
        written = model.new_conversation().answer(request(max_tokens=None))
        read(written, 3)
        until(lambda: second.status().coordinator_stats.active_requests)  # is told once a second
        with OwnNode.connect(first.home) as own:
            until(lambda: own.status().ready)
            with pytest.raises(TrustError, match="in use, and node mac-1 neither holds a part nor loaded it"):
                own.unload("it is not its own")
        with OwnNode.connect(loader.home) as own:
            until(lambda: own.status().ready)
            assert own.unload("it loaded it") == "demo"
        with pytest.raises(UnloadedError, match="it loaded it"):
            list(written)

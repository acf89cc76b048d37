"""Takeover: a model outlives the loss of its coordinator, and what the others hold is not read again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

import mlx_moe
from cluster.client import OwnNode, RemoteAnswer, ServingStatus, Waiting
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request, Token
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import Cluster, RunningNode, answer, running_cluster
from tests.patience import until

pytestmark = pytest.mark.slow

N_TOKENS = 40
PROMPT = tuple(range(30, 90))
LAYERS = (2, 2, 2)


def request() -> Request:
    sampling = SamplingParams(temperature=1.2, top_p=0.9, seed=7)
    return Request(PROMPT, sampling, max_tokens=N_TOKENS, ignore_eos=True, detect_loops=False)


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
    cluster.load("demo", cluster.place("demo", LAYERS))
    until(lambda: ready(second, 0) is not None)
    before = ready(second, 0)
    assert before is not None
    kept = [worker.pid for node in cluster.nodes[1:] for worker in node.workers()]
    with closing(second.model(second.status())) as model:
        waits: list[Waiting | None] = []
        written = model.new_conversation().answer(request(), waiting=waits.append)
        tokens = read(written, 7)
        kill(cluster.nodes[0])
        assert tokens + list(written) == wanted
        assert written.finish_reason == "length"
        assert "node mac-1" in written.stats.waited_for
        assert written.stats.waited_s > 0
        assert waits[0] is not None
        assert "node mac-1" in waits[0].cause
        assert waits[-1] is None
        assert answer(model, request()) == wanted
    assert ready(second, before.epoch) is not None
    assert [worker.pid for node in cluster.nodes[1:] for worker in node.workers()] == kept

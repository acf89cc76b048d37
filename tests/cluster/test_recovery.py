"""Recovery: answers continue, with the same tokens, after the loss of any node but the coordinator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import mlx_moe
from cluster.client import RemoteAnswer, RemoteModel, ServingState, Wanted
from cluster.placement import Standby
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request, Token
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import Cluster, RunningNode, answer, running_cluster
from tests.patience import until

pytestmark = pytest.mark.slow

PROMPTS = [tuple(range(30 + i, 90 + i)) for i in range(4)]
N_TOKENS = 40
LAYERS = (2, 2, 2)


def request(prompt: tuple[int, ...]) -> Request:
    sampling = SamplingParams(temperature=1.2, top_p=0.9, seed=prompt[0])
    return Request(prompt, sampling, max_tokens=N_TOKENS, ignore_eos=True, detect_loops=False)


@pytest.fixture(scope="module")
def wanted() -> list[list[Token]]:
    """Return what one machine that loses nothing answers to each prompt."""
    model = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    tokens = [list(model.generate(request(prompt))) for prompt in PROMPTS]
    model.close()
    return tokens


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("recovery"), 3, measured_hardware) as running:
        yield running


def loaded(cluster: Cluster, layers: tuple[int, ...] = LAYERS, owners: tuple[int, ...] = ()) -> RemoteModel:
    """Load the model on all nodes, after those that were lost have come back."""
    wait_for_lost(cluster)
    placement = cluster.place("demo", layers, owners, n_experts=16, moe_layers=range(1, 6))
    return cluster.load("demo", placement, reconfigure=True)


def wait_for_lost(cluster: Cluster) -> None:
    for node in cluster.nodes:
        if node.process.poll() is not None:
            cluster.join(node)
    cluster.wait_for_all()


def kill_worker(node: RunningNode) -> None:
    (worker,) = psutil.Process(node.process.pid).children()  # looking at all processes takes long on a busy machine
    worker.kill()


def read(written: RemoteAnswer, count: int) -> list[Token]:
    return [next(written) for _ in range(count)]


def computed(cluster: Cluster) -> dict[str, int]:
    """Return the positions that each node's stage has computed since it began, by the node's name."""
    nodes = cluster.own.status().nodes
    return {node.info.name: node.holding.stats.positions for node in nodes if node.holding is not None}


def is_ready(cluster: Cluster) -> bool:
    served = cluster.own.status().serving
    return served is not None and served.state is ServingState.READY


@pytest.mark.parametrize(
    ("lost", "kill"),
    [(1, kill_worker), (2, kill_worker), (1, RunningNode.kill), (2, RunningNode.end)],
    ids=["middle worker", "last worker", "middle daemon", "last goes down"],
)
def test_answers_continue_with_the_same_tokens_after_a_stage_was_killed(
    cluster: Cluster, wanted: list[list[Token]], lost: int, kill: Callable[[RunningNode], None]
) -> None:
    model = loaded(cluster)
    (worker,) = cluster.nodes[lost].workers()
    answers = [model.new_conversation().answer(request(prompt)) for prompt in PROMPTS]
    begun = [read(written, n) for written, n in zip(answers, (1, 5, 9, 13), strict=True)]
    kill(cluster.nodes[lost])
    with ThreadPoolExecutor(len(answers)) as threads:
        rest = list(threads.map(list, answers))
    assert [b + r for b, r in zip(begun, rest, strict=True)] == wanted
    assert all(written.finish_reason == "length" for written in answers)
    assert all(written.stats.waited_s > 0 for written in answers)
    assert all(f"node mac-{lost + 1}" in written.stats.waited_for for written in answers)
    if (lost, kill) == (1, kill_worker):
        again = sum(len(prompt) + N_TOKENS - 1 for prompt in PROMPTS)
        until(lambda: computed(cluster).get("mac-2", 0) >= again)
        middle = (counts := computed(cluster)).pop("mac-2")
        assert len(counts) == 2
        assert all(n < middle - sum(map(len, PROMPTS)) // 2 for n in counts.values())  # drafts differ a little
    until(lambda: is_ready(cluster))
    assert answer(model, request(PROMPTS[0])) == wanted[0]
    assert not worker.is_running()


def test_a_model_that_is_asked_for_during_a_repair_is_there_after_it(
    cluster: Cluster, wanted: list[list[Token]]
) -> None:
    written = loaded(cluster).new_conversation().answer(request(PROMPTS[0]))
    tokens = read(written, 3)
    cluster.nodes[1].kill()
    until(lambda: not is_ready(cluster))
    *_, last = cluster.own.load(Wanted("demo"))
    assert last.serving.state is ServingState.READY
    model = cluster.own.model(cluster.own.status())
    assert answer(model, request(PROMPTS[1])) == wanted[1]
    model.close()
    assert tokens + list(written) == wanted[0]


def test_a_loss_while_prompts_are_read_changes_no_token(cluster: Cluster) -> None:
    long = Request(tuple(i % 200 for i in range(1200)), SamplingParams(temperature=0.0), max_tokens=4, ignore_eos=True)
    model = loaded(cluster)
    undisturbed = answer(model, long)
    killed: list[tuple[int, int]] = []

    def kill_once(done: int, total: int) -> None:
        if done and not killed:
            killed.append((done, total))
            kill_worker(cluster.nodes[1])

    conversation = loaded(cluster).new_conversation()
    assert list(conversation.answer(long, kill_once)) == undisturbed
    assert 0 < killed[0][0] < killed[0][1]


def test_the_loss_of_an_expert_peer_and_then_of_its_stage_changes_no_token(
    cluster: Cluster, wanted: list[list[Token]]
) -> None:
    model = loaded(cluster, (2, 4), (1, 2))
    written = model.new_conversation().answer(request(PROMPTS[0]))
    tokens = read(written, 3)
    cluster.nodes[2].kill()
    tokens += read(written, 20)
    cluster.nodes[1].kill()
    assert tokens + list(written) == wanted[0]


@pytest.mark.parametrize(
    ("layers", "spare", "kill"),
    [
        ((2, 2, 2), range(2, 4), RunningNode.kill),
        ((2, 4), range(2, 6), kill_worker),
        ((2, 2, 2), range(0), RunningNode.kill),
    ],
    ids=["on the next stage's node", "on a node without a part", "nowhere"],
)
def test_a_stage_with_a_spare_copy_is_replaced_without_reading_weights(
    cluster: Cluster,
    wanted: list[list[Token]],
    layers: tuple[int, ...],
    spare: range,
    kill: Callable[[RunningNode], None],
) -> None:
    wait_for_lost(cluster)
    last = cluster.nodes[2]
    placement = cluster.place("demo", layers)
    model = cluster.load("demo", replace(placement, standby=Standby(last.node_id, spare) if spare else None))
    until(lambda: cluster.holding(last).stats.peak_memory_bytes)
    assert cluster.holding(last).spare_layers == spare
    assert bool(cluster.holding(last).spare_bytes) == bool(spare)
    written = model.new_conversation().answer(request(PROMPTS[0]))
    tokens = read(written, 3)
    kill(cluster.nodes[1])
    assert tokens + list(written) == wanted[0]
    *_, status = cluster.own.load(Wanted("demo"))
    assert bool(sum(node.total_bytes for node in status.nodes)) == (not spare)

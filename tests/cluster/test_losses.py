"""Losses: nodes, workers and models that go, differ or compute nonsense while they are counted on."""

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import psutil
import pytest

import mlx_moe
from cluster.client import OwnNode, RemoteAnswer, ServingState, ServingStatus, Wanted
from cluster.daemon.deployment import TRIES
from cluster.errors import NoClusterError, NodeLostError
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request, Token
from mlx_moe.errors import CheckpointError, NumericsError
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import Cluster, RunningNode, answer, running_cluster
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.slow

DEMO = Path(mlx_moe.__file__).parent / "demo"
PROMPT = tuple(range(30, 90))


def request(max_tokens: int | None = 8) -> Request:
    sampling = SamplingParams(temperature=0.0)
    return Request(PROMPT, sampling, max_tokens=max_tokens, ignore_eos=True, detect_loops=False)


@pytest.fixture(scope="module")
def wanted() -> list[Token]:
    model = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    tokens = list(model.generate(request()))
    model.close()
    return tokens


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    """Run three nodes, of which tests end some and start them again."""
    with running_cluster(tmp_path_factory.mktemp("losses"), 3, measured_hardware) as running:
        yield running


def begin(cluster: Cluster) -> tuple[RemoteAnswer, list[Token]]:
    """Load, and return an answer that is being written with its first tokens."""
    model = cluster.load("demo", cluster.place("demo", (2, 2, 2)))
    written = model.new_conversation().answer(request(max_tokens=None))
    return written, [next(written) for _ in range(3)]


def serving(cluster: Cluster) -> ServingStatus:
    """Return what is served; something is."""
    served = cluster.own.status().serving
    assert served is not None
    return served


def no_workers(cluster: Cluster) -> bool:
    return not any(node.workers() for node in cluster.nodes)


@pytest.mark.parametrize("go", [RunningNode.end, RunningNode.kill], ids=["down", "killed"])
def test_a_node_that_holds_nothing_goes_without_taking_away_what_it_asked_for(
    cluster: Cluster, wanted: list[Token], go: Callable[[RunningNode], object]
) -> None:
    cluster.unload()
    asker = cluster.nodes[2]
    with OwnNode.connect(asker.home) as node:
        list(node.load(Wanted("demo", cluster.place("demo", (3, 3)))))
        until(lambda: node.status().ready)
        model = node.model(node.status())
    written = model.new_conversation().answer(request(max_tokens=None))
    tokens = [next(written) for _ in range(3)]
    go(asker)
    tokens += [next(written) for _ in range(len(wanted))]
    written.close()
    assert tokens[: len(wanted)] == wanted
    served = serving(cluster)
    assert (served.state, served.node_ids) == (ServingState.READY, tuple(n.node_id for n in cluster.nodes[:2]))
    assert answer(model, request()) == wanted
    model.close()
    cluster.join(asker)
    cluster.wait_for_all()


def test_a_load_goes_on_without_the_node_that_asked_for_it(cluster: Cluster, tmp_path: Path) -> None:
    cluster.unload()
    large, asker = tmp_path / "large", cluster.nodes[2]
    _write_large(large)
    with OwnNode.connect(asker.home) as node:
        loading = node.load(Wanted(str(large), cluster.place(str(large), (6, 6))))
        assert next(loading).serving.state is ServingState.LOADING
        asker.kill()
        with pytest.raises(NoClusterError, match="has ended"):
            list(loading)
    until(lambda: serving(cluster).state is not ServingState.LOADING)
    assert serving(cluster).state is ServingState.READY
    cluster.unload()
    cluster.join(asker)
    cluster.wait_for_all()


@pytest.mark.parametrize(("number", "n_deaths"), [(0, 1), (2, TRIES)], ids=["coordinator once", "other at every load"])
def test_a_worker_that_dies_while_it_loads_is_tried_again_a_few_times(
    cluster: Cluster, wanted: list[Token], number: int, n_deaths: int
) -> None:
    cluster.unload()
    loading = cluster.own.load(Wanted("demo", cluster.place("demo", (2, 2, 2))))
    next(loading)
    killed = set[int]()
    while len(killed) < n_deaths:
        until(lambda: any(worker.pid not in killed for worker in cluster.nodes[number].workers()))
        for worker in cluster.nodes[number].workers():
            worker.kill()
            killed.add(worker.pid)
    if n_deaths == TRIES:
        said = rf"node mac-{number + 1}: the worker was ended by SIGKILL .* worker 3 of 3 there that died"
        with pytest.raises(NodeLostError, match=said):
            list(loading)
        until(lambda: no_workers(cluster))
    else:
        list(loading)
        assert answer(cluster.own.model(cluster.own.status()), request()) == wanted


def test_another_copy_of_the_model_is_refused_before_loading_with_both_hashes(
    cluster: Cluster, tmp_path: Path, wanted: list[Token]
) -> None:
    model = cluster.load("demo", cluster.place("demo", (2, 2, 2)))
    placement = cluster.place(str(_copy(tmp_path / "model")), (2, 2, 2))
    hashes = []
    for epsilon in (1e-6, 2e-6):
        config = json.loads((DEMO / "config.json").read_text())
        (tmp_path / "model" / "config.json").write_text(json.dumps(config | {"rms_norm_eps": epsilon}))
        hashes.append(_content_hash(tmp_path / "model"))
    value = placement.to_json() | {"content_hash": hashes[0]}
    with pytest.raises(CheckpointError) as caught:
        list(cluster.own.load(Wanted(placement.model, type(placement).from_json(value), replace=True)))
    assert all(content_hash in str(caught.value) for content_hash in hashes)
    assert "mac-1" in str(caught.value)
    assert answer(model, request()) == wanted  # what was loaded before is still there


def test_a_model_without_its_files_is_refused_before_loading(cluster: Cluster, tmp_path: Path) -> None:
    model = _copy(tmp_path / "model")
    placement = cluster.place(str(model), (2, 2, 2))
    (model / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 1 files are missing \(model.safetensors\)"):
        list(cluster.own.load(Wanted(str(model), placement, replace=True)))


def test_nan_in_a_layer_fails_its_request_with_node_and_layer_and_no_other(cluster: Cluster, tmp_path: Path) -> None:
    model = _copy(tmp_path / "model")
    tensors = mx.load(str(model / "model.safetensors"))
    assert isinstance(tensors, dict)
    name = "model.layers.3.input_layernorm.weight"
    tensors[name] = tensors[name] * mx.array(mx.nan, tensors[name].dtype)
    mx.save_safetensors(str(model / "model.safetensors"), tensors, metadata={"format": "mlx"})
    sick = cluster.load(str(model), cluster.place(str(model), (2, 2, 2)))
    log = cluster.nodes[0].home.logs / "worker.log"
    for _ in range(2):
        written = sick.new_conversation().answer(request())
        with pytest.raises(NumericsError, match=r"node mac-2, layer 3: hidden states are not finite") as caught:
            list(written)
        error = caught.value
        assert (error.request_id, error.retryable) == (written.request_id, False)
        ids = f"request_id={error.request_id} sequence_id={error.sequence_id}"
        until(lambda said=f"event=answer_ended {ids} reason=not_finite ": said in log.read_text())
        assert f"event=answer_begun {ids} prompt_tokens=" in log.read_text()
    assert sick.encode("still here", add_special_tokens=False)


def test_a_tokenizer_that_makes_a_prompt_huge_ends_this_prompt_alone(
    cluster: Cluster, tmp_path: Path, wanted: list[Token]
) -> None:
    model = _copy(tmp_path / "model")
    grows = {"type": "Replace", "pattern": {"String": "zq"}, "content": "zq" * 100}
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [grows] * 4}
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    served = cluster.load(str(model), cluster.place(str(model), (2, 2, 2)))
    with ThreadPoolExecutor(1) as thread:
        beside = thread.submit(answer, served, request())
        with pytest.raises(CheckpointError, match="it cannot encode this text"):
            served.encode("zq", add_special_tokens=False)
        assert beside.result(PATIENCE_S) == wanted
    assert served.encode("still here", add_special_tokens=False)
    assert all(worker.memory_info().rss < 2 << 30 for node in cluster.nodes for worker in node.workers())


def test_sigterm_of_everything_leaves_no_process(tmp_path: Path, measured_hardware: Path, wanted: list[Token]) -> None:
    with running_cluster(tmp_path / "cluster", 3, measured_hardware) as cluster:
        written, tokens = begin(cluster)
        workers = [worker for node in cluster.nodes for worker in node.workers()]
        assert len(workers) == 3
        for node in cluster.nodes:
            node.process.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        with pytest.raises(NodeLostError):
            tokens.extend(written)
        assert tokens[:3] == wanted[:3]
        for node in cluster.nodes:
            assert node.process.wait(PATIENCE_S) == 0, node.said
        psutil.wait_procs(workers, timeout=PATIENCE_S)
        assert not any(worker.is_running() for worker in workers)


def _copy(directory: Path) -> Path:
    shutil.copytree(DEMO, directory)
    return directory


def _content_hash(directory: Path) -> str:
    return mlx_moe.describe(directory).content_hash


def _write_large(directory: Path) -> None:
    from bench.synthetic import DEEPSEEK, write_checkpoint

    write_checkpoint(directory, DEEPSEEK | {"n_routed_experts": 16, "n_group": 4, "topk_group": 2})

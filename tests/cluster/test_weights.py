"""Weights from other nodes: only one node has the files; the others read their shares from it, and keep nothing."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import mlx_moe
from bench.synthetic import TINY_DEEPSEEK, write_checkpoint
from cluster.client import ClusterStatus, Wanted
from cluster.errors import ClusterError
from cluster.placement import Placement
from cluster.uses import is_in_use
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.inventory import Place, State
from mlx_moe.checkpoint.recipe import uniform
from mlx_moe.decoding.request import Request, Token
from mlx_moe.errors import CheckpointError, InvalidRequestError
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import Cluster, answer, running_cluster
from tests.conversions import converted

pytestmark = pytest.mark.slow

DEMO = library.locate("demo")
REQUEST = Request((5, 6, 7), max_tokens=8, ignore_eos=True, sampling=SamplingParams(temperature=0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return the folders of models of three machines."""
    return [tmp_path_factory.mktemp(f"mac-{n}") for n in (1, 2, 3)]


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, folders: list[Path], measured_hardware: Path
) -> Iterator[Cluster]:
    prefixes = [("env", f"MOE_CLUSTER_MODELS={folder}") for folder in folders]
    with running_cluster(tmp_path_factory.mktemp("weights"), 3, measured_hardware, prefixes) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def wanted(cluster: Cluster) -> list[Token]:
    tokens = answer(cluster.load("demo", cluster.place("demo", (2, 2, 2))), REQUEST)
    cluster.unload()
    return tokens


@pytest.fixture(autouse=True)
def _no_model_stays(cluster: Cluster, folders: list[Path]) -> Iterator[None]:
    yield
    cluster.unload()
    for folder in folders:
        shutil.rmtree(folder / "mine", ignore_errors=True)
    for node in cluster.nodes:
        shutil.rmtree(node.home.models, ignore_errors=True)


@pytest.mark.parametrize("holder", [0, 1, 2])
def test_one_node_with_the_files_serves_all(
    cluster: Cluster, folders: list[Path], wanted: list[Token], holder: int
) -> None:
    shutil.copytree(DEMO, folders[holder] / "mine")
    plan = Placement.from_json(cluster.place("demo", (2, 2, 2)).to_json() | {"model": "mine"})
    model = cluster.load("mine", plan)
    assert answer(model, REQUEST) == wanted
    cluster.unload()
    assert not any(list(node.home.outlines.glob("*")) for node in cluster.nodes)
    assert not any(node.home.models.exists() for node in cluster.nodes)


def test_what_is_kept_is_on_the_nodes_disks_and_not_read_again(
    cluster: Cluster, folders: list[Path], wanted: list[Token]
) -> None:
    shutil.copytree(DEMO, folders[0] / "mine")
    plan = Placement.from_json(cluster.place("demo", (2, 2, 2)).to_json() | {"model": "mine"})
    asked = Wanted("mine", plan, replace=True, keep=True)
    sources(cluster, asked)
    cluster.unload()
    assert sources(cluster, asked) == {"": {"mac-1", "mac-2", "mac-3"}}
    assert answer(cluster.own.model(cluster.own.status()), REQUEST) == wanted
    total = sum(path.stat().st_size for path in DEMO.glob("*.safetensors"))
    for node in cluster.nodes[1:]:
        (part,) = node.home.models.rglob("*.part")
        assert 0 < part.stat().st_blocks * 512 < total


def sources(cluster: Cluster, wanted: Wanted) -> dict[str, set[str]]:
    """Load a model; return which nodes read bytes from where."""
    found: dict[str, set[str]] = {}
    for status in cluster.own.load(wanted):
        for node in status.nodes:
            if node.total_bytes:
                found.setdefault(node.source, set()).add(node.name)
    return found


def test_a_pull_copies_each_nodes_part_to_its_disk(cluster: Cluster, folders: list[Path], wanted: list[Token]) -> None:
    shutil.copytree(DEMO, folders[1] / "mine")
    plan = Placement.from_json(cluster.place("demo", (2, 2, 2)).to_json() | {"model": "mine"})
    (needed,) = cluster.own.pull(Wanted("mine", plan), dry_run=True)
    assert [node.name for node in needed] == ["mac-1", "mac-3"]
    assert all(node.source == "mac-2" and node.done_bytes == 0 < node.total_bytes < node.free_bytes for node in needed)
    *_, last = cluster.own.pull(Wanted("mine", plan))
    assert [node.done_bytes for node in last] == [node.total_bytes for node in needed]
    listed = {row.node: row.model for row in cluster.own.models() if row.model.name == "mine"}
    assert [(node, model.place, model.state) for node, model in sorted(listed.items())] == [
        ("mac-1", Place.SHARE, State.PART),
        ("mac-2", Place.FOLDER, State.WHOLE),
        ("mac-3", Place.SHARE, State.PART),
    ]
    assert listed["mac-3"].layers == range(4, 6)
    assert sources(cluster, Wanted("mine", plan, replace=True)) == {"": {"mac-1", "mac-2", "mac-3"}}
    assert answer(cluster.own.model(cluster.own.status()), REQUEST) == wanted


def test_a_node_that_pulls_the_whole_model_serves_it(cluster: Cluster, folders: list[Path]) -> None:
    shutil.copytree(DEMO, folders[0] / "mine")
    plan = Placement.from_json(cluster.place("demo", (2, 2, 2)).to_json() | {"model": "mine"})
    for _ in cluster.own.pull(Wanted("mine", plan), ["mac-3"]):
        pass
    whole = next(cluster.nodes[2].home.models.glob("*/*/model.safetensors"))
    assert whole.read_bytes() == (DEMO / "model.safetensors").read_bytes()
    assert sources(cluster, Wanted("mine", plan, replace=True)) == {"": {"mac-1", "mac-3"}, "mac-1, mac-3": {"mac-2"}}


def test_a_pull_to_a_node_that_is_not_there_names_those_that_are(cluster: Cluster) -> None:
    with pytest.raises(InvalidRequestError, match="no node 'mac-9' here; present are mac-1, mac-2, mac-3"):
        list(cluster.own.pull(Wanted("demo"), ["mac-9"]))


def test_shares_quantized_while_they_are_read_equal_one_machines(cluster: Cluster, folders: list[Path]) -> None:
    write_checkpoint(folders[1] / "mine", TINY_DEEPSEEK, bits=None)
    with closing(mlx_moe.load(folders[1] / "mine", recipe=uniform(4))) as model:
        wanted = list(model.generate(REQUEST))
        held = model.placement[0].weights_bytes
    list(cluster.own.load(Wanted("mine", bits=4)))
    status = cluster.own.settled()
    assert answer(cluster.own.model(status), REQUEST) == wanted
    assert held_bytes(status) == held
    list(cluster.own.load(Wanted("mine", bits=8)))
    assert held_bytes(cluster.own.settled()) > 1.5 * held


def test_with_bits_each_node_keeps_its_part_quantized_and_reads_that_alone(
    cluster: Cluster, folders: list[Path], tmp_path: Path
) -> None:
    write_checkpoint(folders[1] / "mine", TINY_DEEPSEEK, bits=None)
    whole = converted(folders[1] / "mine", tmp_path / "whole")
    with closing(mlx_moe.load(whole)) as model:
        wanted = list(model.generate(REQUEST))
    placed = replace(cluster.place("mine", (1, 2, 1)), recipe=uniform(4))
    asked = Wanted("mine", placed, replace=True, keep=True)
    total = sum(path.stat().st_size for path in whole.glob("*.safetensors"))
    for _ in range(2):
        found = sources(cluster, asked)
        assert answer(cluster.own.model(cluster.own.status()), REQUEST) == wanted
        listed = [row for row in cluster.own.models() if row.model.place is Place.SHARE]
        kept = {row.node: row.model for row in listed if row.model.form == "4 bit"}
        assert sum(model.weights_bytes for model in kept.values()) == pytest.approx(total, rel=0.01)
        assert all(is_in_use(model.path) for model in kept.values())
        cluster.unload()
        assert {n: m.layers for n, m in kept.items()} == {"mac-1": range(1), "mac-2": range(1, 3), "mac-3": range(3, 4)}
    assert found == {"": {"mac-1", "mac-2", "mac-3"}}
    for path in (path for node in cluster.nodes for path in node.home.models.rglob("*.part")):
        assert "-of-00005" in path.name  # nothing of the original files
    shutil.rmtree(folders[1] / "mine")
    assert sources(cluster, asked) == found
    assert answer(cluster.own.model(cluster.own.status()), REQUEST) == wanted
    with pytest.raises(CheckpointError, match=r"mine is on no node, and .* are missing: copy its files .*--bits"):
        sources(cluster, replace(asked, plan=replace(placed, recipe=uniform(3))))


def held_bytes(status: ClusterStatus) -> int:
    """Return the bytes of weights that all workers hold."""
    return sum(node.holding.weights_bytes for node in status.nodes if node.holding)


def test_two_pulls_at_once_are_one_or_told_apart(cluster: Cluster, folders: list[Path]) -> None:
    shutil.copytree(DEMO, folders[0] / "mine")
    plan = Placement.from_json(cluster.place("demo", (2, 2, 2)).to_json() | {"model": "mine"})

    def pull(nodes: list[str]) -> int | str:
        try:
            *_, last = cluster.own.pull(Wanted("mine", plan), nodes)
        except ClusterError as error:
            return str(error)
        return sum(node.done_bytes for node in last)

    with ThreadPoolExecutor(3) as threads:
        found = set(threads.map(pull, [[], [], ["mac-3"]]))
    told = {text for text in found if isinstance(text, str)}
    assert len(found) == 2
    (refusal,) = told
    assert refusal.startswith("mine is being pulled: wait")

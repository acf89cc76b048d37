"""Weights from other nodes: only one node has the files; the others read their shares from it, and keep nothing."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_moe.checkpoint import library
from mlx_moe.decoding.request import Request, Token
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import Cluster, answer, running_cluster

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


@pytest.mark.parametrize("holder", [0, 1, 2])
def test_one_node_with_the_files_serves_all(
    cluster: Cluster, folders: list[Path], wanted: list[Token], holder: int
) -> None:
    shutil.copytree(DEMO, folders[holder] / "mine")
    placement = cluster.place("demo", (2, 2, 2)).to_json() | {"model": "mine"}
    model = cluster.load("mine", type(cluster.place("demo", (6,))).from_json(placement))
    assert answer(model, REQUEST) == wanted
    cluster.unload()
    assert not any(list(node.home.outlines.glob("*")) for node in cluster.nodes)

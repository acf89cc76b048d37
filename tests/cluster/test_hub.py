"""A model that no node has: each node downloads its share from a stand-in for the hub, over real HTTP, once."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.synthetic import TINY_DEEPSEEK, write_checkpoint
from cluster.client import Wanted
from cluster.errors import DownloadError
from cluster.placement import Placement
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import uniform
from mlx_moe.checkpoint.source import SourceError
from mlx_moe.decoding.request import Request
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import Cluster, answer, running_cluster
from tests.hub import Fault, Hub

pytestmark = pytest.mark.slow

DEMO = library.locate("demo")
REPO = "org/tiny"
FLOATS = "org/floats"
REQUEST = Request((5, 6, 7), max_tokens=8, ignore_eos=True, sampling=SamplingParams(temperature=0))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    directory = tmp_path_factory.mktemp("hub")
    shutil.copytree(DEMO, directory / REPO)
    with Hub(directory) as hub:
        yield hub


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, hub: Hub, measured_hardware: Path) -> Iterator[Cluster]:
    empty = tmp_path_factory.mktemp("cache")
    prefixes = [("env", f"HF_ENDPOINT={hub.endpoint}", f"HF_HUB_CACHE={empty / str(n)}") for n in range(3)]
    with running_cluster(tmp_path_factory.mktemp("nodes"), 3, measured_hardware, prefixes) as cluster:
        yield cluster


@pytest.fixture
def plan(cluster: Cluster) -> Placement:
    cluster.unload()
    return Placement.from_json(cluster.place("demo", (2, 2, 2)).to_json() | {"model": REPO})


def test_each_node_downloads_its_share_once(cluster: Cluster, hub: Hub, plan: Placement) -> None:
    with pytest.raises(DownloadError, match=r"org/tiny is on no node: .* MB would be downloaded \(mac-1 .* free; "):
        list(cluster.own.load(Wanted(REPO, plan)))
    hub.faults.append(Fault("busy", file="*.safetensors", times=2, retry_after_s=0))
    hub.faults.append(Fault("cut", file="*.safetensors", times=2))
    list(cluster.own.load(Wanted(REPO, plan, download=True)))
    tokens = answer(cluster.own.model(cluster.own.status()), REQUEST)
    weights = DEMO / "model.safetensors"
    assert hub.total_sent() < 1.1 * (weights.stat().st_size + small_bytes())
    sent = hub.total_sent()
    cluster.unload()
    list(cluster.own.load(Wanted(REPO, plan)))
    assert hub.total_sent() == sent
    (hub.directory / REPO / "generation_config.json").write_text('{"temperature": 0.5}')
    hub.refresh()
    cluster.unload()
    list(cluster.own.load(Wanted(REPO, plan)))  # a later commit with the same weights
    assert hub.total_sent() == sent
    assert answer(cluster.load("demo", cluster.place("demo", (2, 2, 2))), REQUEST) == tokens


def test_a_refused_download_ends_in_one_error_and_goes_on_later(cluster: Cluster, hub: Hub, plan: Placement) -> None:
    for node in cluster.nodes:
        shutil.rmtree(node.home.models, ignore_errors=True)
    list_parts = Wanted(REPO, plan)
    hub.faults.append(Fault("gated", at="resolve"))
    with pytest.raises(SourceError, match="hf auth login"):
        list(cluster.own.pull(list_parts))
    hub.faults.clear()
    list(cluster.own.pull(list_parts, dry_run=True))
    hub.faults.append(Fault("gated", file="*.safetensors", at="resolve"))
    with pytest.raises(SourceError, match=r"^node mac-\d: .*hf auth login"):
        list(cluster.own.pull(list_parts))
    hub.faults.clear()
    *_, last = cluster.own.pull(list_parts)
    assert all(node.done_bytes == node.total_bytes > 0 for node in last)


def test_with_bits_each_node_downloads_its_share_and_keeps_it_quantized_instead(cluster: Cluster, hub: Hub) -> None:
    cluster.unload()
    source = hub.directory / FLOATS
    write_checkpoint(source, TINY_DEEPSEEK | {"num_hidden_layers": 3}, bits=None)
    hub.refresh()
    plan, before = replace(cluster.place(FLOATS, (1, 1, 1)), recipe=uniform(4)), hub.total_sent()
    list(cluster.own.load(Wanted(FLOATS, plan, download=True)))
    tokens = answer(cluster.own.model(cluster.own.status()), REQUEST)
    weights = sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert hub.total_sent() - before < 1.1 * (weights + small_bytes(source))
    parts = [path for node in cluster.nodes for path in node.home.models.glob("org--floats/*/*.safetensors*")]
    assert 0 < sum(path.stat().st_blocks * 512 for path in parts) < 0.2 * weights
    cluster.unload()
    sent = hub.total_sent()
    hub.faults.append(Fault("gated", at="api"))
    list(cluster.own.load(Wanted(FLOATS, plan)))  # nobody has to agree, and the hub is not needed
    hub.faults.clear()
    assert hub.total_sent() == sent
    model = cluster.own.model(cluster.own.status())
    assert answer(model, REQUEST) == tokens

    refused = Fault("gated", at="api", times=1)
    hub.faults.append(refused)
    written = model.new_conversation().answer(REQUEST)
    begun = [next(written)]
    (worker,) = cluster.nodes[1].workers()
    worker.kill()
    assert begun + list(written) == tokens
    assert refused.times == 1  # for a repair the hub is not asked
    hub.faults.clear()


def small_bytes(directory: Path = DEMO) -> int:
    """Return the bytes of the files that every node gets: all but weights, and the headers of these."""
    with Checkpoint.open(directory) as checkpoint:
        header = min(checkpoint.info(name).offset for name in checkpoint.names)
    return 3 * header + sum(path.stat().st_size for path in directory.iterdir() if path.suffix != ".safetensors")

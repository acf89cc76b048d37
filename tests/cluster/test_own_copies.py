"""Copies: each node finds its own by content; where two differ is told before loading."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.placement import Placement
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.source import SourceError
from mlx_moe.decoding.request import Request, Token
from mlx_moe.errors import CheckpointError
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import Cluster, answer, running_cluster
from tests.layouts import fused, per_expert, read_arrays, rewrite

pytestmark = pytest.mark.slow

DEMO = library.locate("demo")
REPO = "org/tiny"
TENSOR = "model.layers.3.mlp.switch_mlp.up_proj.scales"
LATER = "model.layers.4.self_attn.o_proj.scales", "model.layers.6.eh_proj.scales"
REQUEST = Request((5, 6, 7), max_tokens=8, ignore_eos=True, sampling=SamplingParams(temperature=0))


class Machine:
    """What one node sees: its own cache, home and folder of models."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / "models"
        self.home = directory / "home"
        self.cache = directory / "hub"
        for path in (self.folder, self.home, self.cache):
            path.mkdir(parents=True)

    @property
    def prefix(self) -> tuple[str, ...]:
        return (
            "env",
            "HF_HUB_OFFLINE=1",
            f"HF_HUB_CACHE={self.cache}",
            f"HOME={self.home}",
            f"MOE_CLUSTER_MODELS={self.folder}",
        )

    def download(self, commit: str) -> Path:
        return copied(self.cache / "models--org--tiny" / "snapshots" / commit)

    def clear(self) -> None:
        for path in (self.folder, self.home, self.cache):
            for child in path.iterdir():
                shutil.rmtree(child)


def copied(directory: Path) -> Path:
    return Path(shutil.copytree(DEMO, directory))


def fine_tune(directory: Path, *tensors: str) -> None:
    """Change all values of some tensors."""
    arrays = read_arrays(directory)
    rewrite(directory, arrays | {name: arrays[name] * 1.05 for name in tensors})


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> list[Machine]:
    return [Machine(tmp_path_factory.mktemp(f"mac-{n}")) for n in (1, 2, 3)]


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, machines: list[Machine], measured_hardware: Path
) -> Iterator[Cluster]:
    prefixes = [machine.prefix for machine in machines]
    with running_cluster(tmp_path_factory.mktemp("copies"), 3, measured_hardware, prefixes) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def _no_model_stays(cluster: Cluster, machines: list[Machine]) -> Iterator[None]:
    yield
    cluster.unload()
    for machine in machines:
        machine.clear()


@pytest.fixture(scope="module")
def wanted(cluster: Cluster) -> list[Token]:
    tokens = answer(cluster.load("demo", cluster.place("demo", (2, 2, 2))), REQUEST)
    cluster.unload()
    return tokens


def load(cluster: Cluster, model: str) -> list[Token]:
    return answer(cluster.load(model, cluster.place(model, (2, 2, 2))), REQUEST)


def test_each_node_finds_its_own_copy_wherever_it_is_and_however_it_is_stored(
    cluster: Cluster, machines: list[Machine], wanted: list[Token]
) -> None:
    first, second, third = machines
    first.download("1234")
    arrays = read_arrays(DEMO)
    for layer in (1, 2, 3):
        arrays = per_expert(arrays, layer)
    rewrite(copied(second.folder / "named otherwise"), arrays, lambda name: len(name) % 5)
    rewrite(third.download("0000"), fused(arrays, 5), lambda name: len(name) % 2)
    assert load(cluster, REPO) == wanted


def test_a_path_below_the_home_directory_is_looked_for_below_each_nodes_own(
    cluster: Cluster, machines: list[Machine], wanted: list[Token]
) -> None:
    for machine in machines:
        copied(machine.home / "models" / "q3")
    (machines[0].home / "models" / "q3").rename(machines[0].home / "models" / "named-here")
    (machines[1].home / "models" / "q3").rename(machines[1].home / "models" / "named-here")
    copied(machines[2].folder / "named-here")
    shutil.rmtree(machines[2].home / "models")
    assert load(cluster, "~/models/named-here") == wanted


def test_nodes_that_lack_a_model_read_it_from_one_that_has_it(
    cluster: Cluster, machines: list[Machine], wanted: list[Token]
) -> None:
    machines[0].download("1234")
    assert load(cluster, REPO) == wanted


def test_a_model_that_no_node_has_is_told_with_the_cure(cluster: Cluster) -> None:
    with pytest.raises(SourceError, match=r"org/tiny is on no node, and .* HF_HUB_OFFLINE"):
        cluster.load(REPO)


def test_two_fine_tunes_are_told_apart_by_the_tensor_that_differs(cluster: Cluster, machines: list[Machine]) -> None:
    snapshots = [machine.download("1234") for machine in machines]
    for tuned in snapshots[1:]:
        fine_tune(tuned, TENSOR, *LATER)
    rewrite(snapshots[1], per_expert(read_arrays(snapshots[1]), 3))
    with pytest.raises(CheckpointError) as caught:
        load(cluster, REPO)
    parameter, expert = "model.layers.3.mlp.experts.up_proj", "model.layers.3.mlp.experts.0.up_proj.scales"
    assert re.match(
        rf"mac-2 and mac-3 have another {REPO} than mac-1\. The first difference is {parameter} \(and 2 more\): "
        rf"{TENSOR} is BF16\[16, 64, 6\] \w{{16}} in {snapshots[0]} on mac-1, "
        rf"{expert} is BF16\[16, 64, 6\] \w{{16}} in {snapshots[1]} on mac-2\. Their contents are",
        str(caught.value),
    )


def test_a_plan_for_another_content_is_told_as_that(cluster: Cluster, machines: list[Machine]) -> None:
    copied(machines[0].folder / "mine")
    plan = cluster.place("mine", (2, 2, 2)).to_json() | {"content_hash": "0" * 32}
    with pytest.raises(CheckpointError, match=r"the plan is for another mine, .* 0+; mac-1 has \w{32} in"):
        cluster.load("mine", Placement.from_json(plan))


def test_another_configuration_is_told_by_its_field(cluster: Cluster, machines: list[Machine]) -> None:
    for machine in machines:
        path = machine.download("1234") / "config.json"
        if machine is machines[2]:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 0.5}))
    told = r"mac-3 has another .* is rms_norm_eps of config\.json: .* is 0\.5 in .* on mac-3\."
    with pytest.raises(CheckpointError, match=told):
        load(cluster, REPO)


def test_a_copy_that_changes_after_it_was_compared_is_not_loaded(cluster: Cluster, machines: list[Machine]) -> None:
    """A worker checks the files that it opens against what its daemon read."""
    from cluster.worker.loading import load as load_shard
    from cluster.worker.node_files import NodeFiles
    from cluster.worker.role import Role
    from mlx_moe.checkpoint.checkpoint import Checkpoint

    directory = copied(machines[0].folder / "changing")
    with Checkpoint.open(directory) as checkpoint:
        stamp = checkpoint.stamp()
    role = Role.read(json.dumps(cluster.place("changing", (6,)).to_json()), cluster.nodes[0].node_id)
    files = NodeFiles(str(directory), stamp)
    assert load_shard(files, role, lambda *_: None, "none").weights_bytes
    fine_tune(directory, TENSOR)
    with pytest.raises(CheckpointError, match="has changed since it was compared"):
        load_shard(files, role, lambda *_: None, "none")

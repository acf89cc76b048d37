"""Rebalancing: a node that joins or comes back gets a part, by command or at a quiet moment; answers continue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

import mlx_moe
from cluster.client import ServingState, Waiting, Wanted
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request, Token
from mlx_moe.sampling_params import SamplingParams
from tests.cluster.running import Cluster, RunningNode, running_cluster
from tests.patience import until

pytestmark = pytest.mark.slow

LONG = Request(tuple(range(40, 100)), SamplingParams(temperature=0.0), max_tokens=400, ignore_eos=True)
QUIET_S = "0.5"


@pytest.fixture(scope="module")
def wanted() -> list[Token]:
    model = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    with closing(model):
        return list(model.generate(LONG))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    """Run two slow nodes, each too small for the demo model."""
    slow = hardware(measured_hardware, tmp_path_factory.mktemp("slow"), bandwidth_gbps=0.01, budget_bytes=175_600_000)
    with running_cluster(tmp_path_factory.mktemp("quiet"), 2, slow, options=("--quiet", QUIET_S)) as running:
        yield running


def hardware(measured: Path, directory: Path, **changes: float) -> Path:
    value = json.loads(measured.read_text())
    value["hardware"] |= changes
    (path := directory / "hardware.json").write_text(json.dumps(value))
    return path


def placed_on(cluster: Cluster) -> set[str]:
    """Return the names of the nodes of the model, once it is ready; empty until then."""
    status = cluster.own.status()
    if status.serving is None or status.serving.state is not ServingState.READY:
        return set()
    return {status.name(node_id) for node_id in status.serving.node_ids}


def test_a_node_that_joins_is_used_at_a_quiet_moment_and_one_that_comes_back_by_command(
    cluster: Cluster, wanted: list[Token], measured_hardware: Path, tmp_path: Path
) -> None:
    for _ in cluster.own.load(Wanted("demo", context_tokens=512, draft="none")):
        pass
    assert placed_on(cluster) == {"mac-1", "mac-2"}
    assert not cluster.own.rebalance(dry_run=True).changes

    fast = RunningNode(cluster.directory / "node-3", "mac-3")
    fast.home.path.mkdir()
    measured = hardware(measured_hardware, tmp_path, bandwidth_gbps=100.0, budget_bytes=175_600_000)
    fast.home.hardware.write_text(measured.read_text())
    cluster.nodes.append(fast)
    cluster.join(fast)
    cluster.wait_for_all()
    until(lambda: "mac-3" in placed_on(cluster))

    fast.kill()
    until(lambda: placed_on(cluster) == {"mac-1", "mac-2"})
    cluster.join(fast)
    cluster.wait_for_all()
    with closing(cluster.own.model(cluster.own.status())) as model:
        plan = cluster.own.rebalance(dry_run=True)
        assert plan.is_better
        assert plan.tokens_per_s > 1.2 * plan.former_tokens_per_s
        assert fast.node_id in plan.read_bytes
        assert placed_on(cluster) == {"mac-1", "mac-2"}  # it was lost just now: not without a person's word
        waited: list[Waiting | None] = []
        written = model.new_conversation().answer(LONG, waiting=waited.append)
        tokens = [next(written) for _ in range(3)]
        cluster.own.rebalance(dry_run=False)
        *_, last = cluster.own.load(Wanted("demo"))
        assert tokens + list(written) == wanted
        assert waited[0] == Waiting("demo was placed on the nodes in another way")
        assert waited[-1] is None
        status = cluster.own.status()
        read = {node.name: node.total_bytes for node in last.nodes if node.total_bytes}
        assert read.keys() == {status.name(node_id) for node_id in plan.read_bytes}
        assert last.serving is not None
        assert fast.node_id in last.serving.node_ids


def test_a_model_that_was_lost_with_its_nodes_is_loaded_again_when_one_comes_back(cluster: Cluster) -> None:
    for node in cluster.nodes[1:]:
        node.kill()
    until(lambda: (served := cluster.own.status().serving) and served.state is ServingState.FAILED)
    cluster.join(cluster.nodes[1])
    until(lambda: placed_on(cluster) == {"mac-1", "mac-2"})

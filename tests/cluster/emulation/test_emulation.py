"""Emulation: real workers around shards that wait; what they write is the script, with and without drafts."""

import asyncio
import time
from dataclasses import replace

import mlx.core as mx
import pytest

from cluster.cost_reader import read_costs
from cluster.emulation.cluster import emulated_cluster
from cluster.emulation.measure import measure, predicted, without_drafts
from cluster.emulation.scenario import FLOAT_BYTES, GRPC, WIRES, DraftKind, Scenario
from cluster.emulation.stage import DIGIT, Clock, EmulatedStage, positions_of
from cluster.errors import ClusterError
from cluster.placement import Placement, StagePlacement, solve
from cluster.placement.capacity import HOP_S
from cluster.placement.chips import parse_nodes
from cluster.placement.prediction import StageTiming
from mlx_moe.errors import FrameError
from mlx_moe.pipeline.frame import Frame, FrameKind

SCRIPT = tuple(range(5, 205))
SCENARIO = Scenario(
    "qwen3-30b-a3b", tuple(parse_nodes("2xM3-Ultra-96GB")), "10gbe", SCRIPT, "stated", (0.7, 0.5), seed=3
)


@pytest.fixture(scope="module")
def placement() -> Placement:
    """Two stages, though one node could hold the model."""
    first, second = (node.node_id for node in SCENARIO.nodes)
    whole = solve(
        read_costs(SCENARIO.model, float_bytes=FLOAT_BYTES),
        SCENARIO.nodes[:1],
        SCENARIO.links(),
        context_tokens=512,
        concurrency=1,
    )
    return replace(whole, stages=(StagePlacement(first, range(24)), StagePlacement(second, range(24, 48))))


def test_a_scenario_survives_its_way_to_the_workers() -> None:
    assert Scenario.from_name(SCENARIO.to_name()) == SCENARIO


def test_a_prediction_counts_the_hop_of_the_planner() -> None:
    assert SCENARIO.links().default.latency_s == pytest.approx(HOP_S)
    assert SCENARIO.links().default.bytes_per_s < min(WIRES[SCENARIO.wire].bytes_per_s, GRPC.bytes_per_s)


def test_nodes_that_the_placement_leaves_out_are_left_out() -> None:
    second = SCENARIO.nodes[1].node_id
    assert [node.node_id for node in SCENARIO.on({second: "an id"}).nodes] == ["an id"]


def test_a_clock_makes_up_for_what_it_was_late() -> None:
    clock = Clock()
    started = time.monotonic()
    for _ in range(20):
        clock.work(0.002, started)
    assert time.monotonic() - started >= 0.04


def test_an_error_within_an_emulated_cluster_is_raised_as_it_is(placement: Placement) -> None:
    async def fail() -> None:
        async with emulated_cluster(placement, lambda _: "emulated:no scenario"):
            pass

    with pytest.raises(ClusterError, match="scenario of an emulation cannot be read"):
        asyncio.run(fail())


@pytest.mark.parametrize("name", ["emulated:", "emulated:7", "emulated:{}", 'emulated:{"stages": []}'])
def test_what_is_no_scenario_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="scenario of an emulation cannot be read"):
        Scenario.from_name(name)


@pytest.fixture
def stage(placement: Placement) -> EmulatedStage:
    costs = SCENARIO.costs()
    nodes = {node.node_id: node for node in SCENARIO.nodes}
    timing = StageTiming(costs, placement.stages[1], nodes, SCENARIO.links())
    return EmulatedStage(timing, "b", costs.hidden_size, Clock(), wire=None, overhead_s=0.0, is_last=True)


@pytest.mark.parametrize("end", [1, DIGIT, DIGIT + 1, 3 * DIGIT**2 + 5])
def test_hidden_states_say_where_they_are(stage: EmulatedStage, end: int) -> None:
    stage.fork("nobody", "r", 0)
    for start in range(0, end, 1 << 15):
        length = min(end - start, 1 << 15)
        frame = Frame("r", start, mx.zeros((length, 1)), FrameKind.DECODE, outputs=1)
        result = stage.run(frame)
    assert positions_of(result.hidden_states) == [result.position] == [end - 1]
    assert result.hidden_states.dtype == mx.bfloat16
    assert stage.kv_positions == end


def test_a_hole_is_refused(stage: EmulatedStage) -> None:
    with pytest.raises(FrameError, match="position 3"):
        stage.run(Frame("r", 3, mx.zeros((1, 1)), FrameKind.DECODE))


@pytest.mark.slow
@pytest.mark.parametrize("draft", ["none", "stated", "mtp"])
def test_an_emulated_cluster_writes_the_script(placement: Placement, draft: DraftKind) -> None:
    scenario = without_drafts(SCENARIO) if draft == "none" else replace(SCENARIO, draft=draft)
    measured = asyncio.run(measure(scenario, placement, prompt=SCRIPT[:40], tokens=24, users=[1, 2], prompts=[100]))
    assert all(decoded.as_written for decoded in measured.decoded)
    drafted, accepted = measured.decoded[0].drafted, measured.decoded[0].accepted
    assert (drafted == 0) if draft == "none" else (0 <= accepted <= drafted)
    if draft == "stated":
        assert 0 < accepted < drafted
    wanted_s = predicted(scenario, placement, [100]).ttft_s[100]
    assert measured.ttft_s[100] >= 0.9 * wanted_s  # an emulation is late on a busy machine, and never early

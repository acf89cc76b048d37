"""Placements as JSON that people edit: what is read back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings

from cluster.cost_reader import read_costs
from cluster.placement import Links, ModelCosts, NodeCapacity, Placement, placed, spread, validate
from cluster.placement.stages import make_stage
from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.errors import InvalidRequestError
from mlx_moe.families import read_config
from mlx_moe.published_configs import QWEN3_30B
from tests.cluster.placement.small import all_placements, clusters, models, node

CONFIG = read_config(QWEN3_30B)
Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def plan() -> dict[str, Any]:
    """Return a plan of two stages, the second with a peer."""
    nodes = [node(i, 64 << 30) for i in range(3)]
    costs = read_costs("qwen3-30b-a3b", float_bytes=2)
    placement = spread(costs, nodes, layer_splits=[40, 8], expert_peers=[0, 1], context_tokens=4096, concurrency=1)
    validate(placement, CONFIG)
    plan: dict[str, Any] = json.loads(json.dumps(placement.to_json()))
    return plan


@settings(max_examples=30)
@given(models(3), clusters(3))
def test_json_gives_the_same_placement_back(costs: ModelCosts, cluster: tuple[list[NodeCapacity], Links]) -> None:
    for placement in all_placements(costs, cluster[0], groups=True):
        assert Placement.from_json(json.loads(json.dumps(placement.to_json()))) == placement


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: p.pop("stages"), "plan: stages is missing"),
        (lambda p: p.update(stages=[]), "plan: there must be at least one stage, got none"),
        (lambda p: p.update(concurrency=True), "plan: concurrency must be int, got True"),
        (lambda p: p.update(context_tokens=0), "plan: context_tokens must be 1 or more, got 0"),
        (lambda p: p.update(contxt=1), "plan: contxt is not a field of it"),
        (
            lambda p: p["stages"][0].update(layers=[0]),
            r"stage 0: layers must be \[first, one past the last\] of at most 9999, got \(0,\)",
        ),
        (lambda p: p["stages"][0].update(layers=[0, -1]), r"stage 0: layers must be indices, got \[0, -1\]"),
        (lambda p: p["stages"][1].update(peers=[3]), "stage 1: peer 0 must be an object, got 3"),
        (lambda p: p["stages"][1].update(owned_experts={"x": []}), "stage 1: owned_experts: 'x' is not the index"),
        (
            lambda p: p["stages"][1].update(owned_experts={"40": ["0"]}),
            r"owned_experts must be indices, got \['0'\]",
        ),
        (lambda p: p["node_bytes"].update(n0=-1), "node_bytes: n0 must be 0 or more, got -1"),
        (lambda p: p.update(chunks=128), "plan: chunks must be dict, got 128"),
        (lambda p: p["chunks"].pop("longest"), "plan: chunks: longest is missing"),
        (lambda p: p["chunks"].update(wanted=0), "plan: chunks: wanted must be 1 or more, got 0"),
        (lambda p: p["chunks"].update(shortest=1024), "chunks: .* in this order, got 1024 and 512"),
        (
            lambda p: p["chunks"].update(longest=1 << 40),
            "chunks: longest must be at most 2147483647, got 1099511627776",
        ),
        (lambda p: p["chunks"].update(size=1), "plan: chunks: size is not a field of it"),
    ],
)
def test_a_malformed_plan_is_refused_with_its_field(plan: dict[str, Any], edit: Edit, message: str) -> None:
    edit(plan)
    with pytest.raises(InvalidRequestError, match=message):
        Placement.from_json(plan)


def test_a_plan_from_before_chunk_rules_cuts_as_it_did(plan: dict[str, Any]) -> None:
    del plan["chunks"]
    assert Placement.from_json(plan).chunks == ChunkRule(wanted=8, shortest=32, longest=512)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: p["stages"][1].update(node_id="n0"), "node n0 has two roles"),
        (lambda p: p["stages"][1]["peers"][0].update(node_id="n1"), "node n1 has two roles"),
        (lambda p: p["stages"][0].update(layers=[0, 39]), r"stage 1 must hold layers from 39 on, got \[40, 48\)"),
        (lambda p: p["stages"][0].update(layers=[0, 41]), "must hold layers from 41 on"),
        (lambda p: p["stages"].pop(), "the stages hold 40 layers, the model has 48"),
        (lambda p: p["stages"][1]["peers"][0]["owned_experts"]["44"].pop(0), "of layer 44 is owned 0 times"),
        (lambda p: p["stages"][1]["owned_experts"]["44"].append(0), "expert 0 of layer 44 is owned 2 times"),
        (lambda p: p["stages"][1]["owned_experts"]["44"].append(128), "expert 128 of layer 44 is owned 1 times"),
        (lambda p: p["stages"][1]["owned_experts"].pop("44"), "of layer 44 is owned 2 times"),
        (lambda p: p["stages"][1]["owned_experts"].update({"7": [0]}), "splits layer 7, which is not an MoE layer"),
        (lambda p: p["stages"][1].update(peers=[]), "is owned 0 times"),
    ],
)
def test_a_plan_that_is_not_whole_is_refused(plan: dict[str, Any], edit: Edit, message: str) -> None:
    edit(plan)
    with pytest.raises(InvalidRequestError, match=message):
        validate(Placement.from_json(plan), CONFIG)


def test_the_coordinator_is_on_the_first_node(plan: dict[str, Any]) -> None:
    placement = Placement.from_json(plan)
    assert placement.coordinator == "n0"
    costs = read_costs("qwen3-30b-a3b", float_bytes=2)
    nodes = [node(i, 64 << 30) for i in range(3)]
    alone = placed(
        costs,
        nodes,
        [make_stage(costs, range(1, 48), nodes[0], [], 1), make_stage(costs, range(1), nodes[1], [], 1)],
        context_tokens=1,
        concurrency=1,
    )
    layers = sum(layer.owned_bytes(costs.n_experts, 0) for layer in costs.layers[1:])
    assert alone.node_bytes["n0"] == layers + costs.coordinator_bytes(0)

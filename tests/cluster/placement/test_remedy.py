"""What is done, and what is said, when a model does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.errors import PlacementError
from cluster.placement import Links, ModelCosts, fit, read_costs, remedies, solve
from cluster.placement.chips import parse_nodes
from cluster.placement.remedy import raise_command
from cluster.placement.solver import can_hold

DEEPSEEK = read_costs("deepseek-v3", float_bytes=2)


def test_deepseek_v3_fits_eight_minis_once_as_few_limits_as_needed_are_raised() -> None:
    nodes = parse_nodes("8xM4-Pro-64GB")
    with pytest.raises(PlacementError, match=r"needs 384\.4 GB for its weights"):
        solve(DEEPSEEK, nodes, Links(), context_tokens=8192, concurrency=1, expert_groups=False)
    found = fit(DEEPSEEK, nodes, Links(), context_tokens=8192, concurrency=1)
    assert len(found.raised) == 3
    assert not any(stage.peers for stage in found.placement.stages)
    assert raise_command(found.raised[0]) == "sudo sysctl iogpu.wired_limit_mb=57344"
    limits = {node.node_id: node.memory_bytes for node in found.nodes}
    assert all(found.placement.node_bytes[n] < 0.95 * limits[n] for n in limits)


def test_a_limit_is_not_raised_for_nothing() -> None:
    found = fit(DEEPSEEK, parse_nodes("1xM3-Ultra-512GB"), Links(), context_tokens=8192, concurrency=1)
    assert found.raised == ()


def test_remedies_say_how_much_is_enough() -> None:
    nodes = [n.raised() for n in parse_nodes("8xM4-Pro-64GB")]
    assert remedies(DEEPSEEK, nodes, context_tokens=160_000, concurrency=8) == [
        "a context of 67072 tokens instead of 160000",
        "3 users at once instead of 8",
        "30.8 GB more for the GPU on m4-pro-1",
        "1 more node with 60.1 GB for the GPU",
        "a conversion to 3 bits (now 4.5 with scales)",
    ]

    def holds(costs: ModelCosts = DEEPSEEK, more: int = 0, context_tokens: int = 160_000, users: int = 8) -> bool:
        larger = replace(nodes[0], memory_bytes=nodes[0].memory_bytes + more)
        return can_hold(
            costs, [larger, *nodes[1:]], context_tokens=context_tokens, concurrency=users, expert_groups=False
        )

    assert (holds(context_tokens=67_072), holds(context_tokens=67_072 + 256)) == (True, False)
    assert (holds(users=3), holds(users=4)) == (True, False)
    assert (holds(more=30_800_000_000), holds(more=30_700_000_000)) == (True, False)
    assert (holds(DEEPSEEK.at_bits(3.5)), holds(DEEPSEEK.at_bits(4.5))) == (True, False)


def test_nodes_as_they_are_are_told_to_raise_their_limits() -> None:
    cures = remedies(DEEPSEEK, parse_nodes("8xM4-Pro-64GB"), context_tokens=8192, concurrency=1)
    assert cures[0] == "a higher GPU limit: sudo sysctl iogpu.wired_limit_mb=57344"

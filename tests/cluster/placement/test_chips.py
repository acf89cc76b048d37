"""Node specs and chips."""

from __future__ import annotations

import pytest

from cluster.membership.hardware import Hardware
from cluster.placement.chips import OTHER, find, gpu_memory_bytes, measured, parse_nodes
from mlx_moe.errors import InvalidRequestError


def test_a_spec_is_read_into_nodes() -> None:
    nodes = parse_nodes("2xM4-Pro-64GB, M3-Ultra-256GB")
    assert [n.name for n in nodes] == ["m4-pro-1", "m4-pro-2", "m3-ultra-3"]
    assert nodes[0].memory_bytes == 48 << 30
    assert nodes[0].raised().memory_bytes == 56 << 30
    assert nodes[0].bandwidth_gbps == pytest.approx(0.87 * 273)
    assert nodes[2].mla_moe_layer_us == 267


@pytest.mark.parametrize(
    "text", ["", "8", "M4-Pro", "0xM4-64GB", "M4-0GB", "M4-Pro-64", "2x M4-64GB", "M4-64GB,", "xM4-64GB"]
)
def test_a_spec_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="write nodes as 8xM4-Pro-64GB"):
        parse_nodes(text)


def test_unknown_chips_and_too_many_nodes_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="chip 'M4-Ultra' is not supported; supported are M4-Pro"):
        parse_nodes("2xM4-Ultra-64GB")
    with pytest.raises(InvalidRequestError, match="are 65 nodes"):
        parse_nodes("65xM4-64GB")


def test_the_gpu_has_two_thirds_of_small_memories_and_three_quarters_of_large() -> None:
    assert gpu_memory_bytes(24 << 30) == 16 << 30
    assert gpu_memory_bytes(64 << 30) == 48 << 30


def test_measured_rates_replace_assumed_ones() -> None:
    hardware = Hardware("Apple M4 Pro", "metal", "bfloat16", 64 << 30, 48 << 30, 240.0, 6.0, "macOS", "0.32", 1.0)
    node = measured("id", "mac-1", hardware)
    assert (node.bandwidth_gbps, node.tflops, node.memory_bytes) == (240.0, 6.0, 48 << 30)
    assert node.moe_layer_us == find("M4-Pro").moe_layer_us
    assert node.raised_memory_bytes == 56 << 30
    pc = measured(
        "id", "pc", Hardware("AMD EPYC", "cpu", "float32", 8 << 30, 6 << 30, 20.0, 0.01, "Linux", "0.32", 1.0)
    )
    assert (pc.moe_layer_us, pc.raised()) == (OTHER.moe_layer_us, pc)

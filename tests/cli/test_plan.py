"""The plan command's output, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.options import LoadOptions
from cli.plan import Target, plan
from cli.up import wanted
from cluster.errors import PlacementError
from cluster.placement import Links, Placement, validate
from cluster.placement.chips import parse_nodes
from mlx_moe.checkpoint.recipe import uniform
from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.errors import InvalidRequestError
from mlx_moe.families import read_config
from mlx_moe.published_configs import DEEPSEEK_V3


def test_the_table_fits_a_terminal_and_says_all(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    plan("deepseek-v3", "8xM4-Pro-64GB", as_json=False)
    output = capsys.readouterr().out
    assert max(map(len, output.splitlines())) <= 100
    for text in (
        "671.0 B parameters, 377.8 GB at 4.5 bits a weight, on 8 of 8 nodes",
        "layers 0-8 (3 dense), embedding, head, MTP",
        "sudo sysctl iogpu.wired_limit_mb=57344",
        "9.48 tok/s",
        "(8k tokens)",
        "reads 87% of 273 GB/s",
        "0.7 ms and 1.15 GB/s where no link was measured (A)",
    ):
        assert text in output


def test_json_holds_a_placement_that_can_be_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    plan("DeepSeek-V3", "8xM4-Pro-64GB", as_json=True, context=4096, users=2, objective="many_users")
    value = json.loads(capsys.readouterr().out)
    placement = Placement.from_json(value["placement"])
    validate(placement, read_config(DEEPSEEK_V3))
    assert (placement.context_tokens, placement.concurrency) == (4096, 2)
    assert value["prediction"]["tokens_per_s"] > 9
    assert list(value["prediction"]["ttft_s"]) == ["128", "1024"]
    assert value["prediction"]["most_tokens_per_s"] > 75
    assert len(value["raised_gpu_limit"]) == 7


def test_split_layers_are_shown_with_their_peers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    plan("qwen3-30b-a3b", "2xM4-16GB", as_json=False, context=1024)
    assert "experts" not in capsys.readouterr().out
    plan("deepseek-v3", "64xM4-16GB", as_json=False, context=1024)
    assert "of 256 experts of these layers" in capsys.readouterr().out


def test_without_nodes_it_plans_for_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    here = Target(parse_nodes("1xM4-16GB"), Links(), 2, {})
    plan("demo", None, as_json=True, here=lambda: here)
    value = json.loads(capsys.readouterr().out)
    assert value["placement"]["stages"][0]["node_id"] == "m4-1"
    assert value["placement"]["context_tokens"] == 2048


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(PlacementError, match="would fit with 6 more nodes"):
        plan("deepseek-v3", "2xM4-Pro-64GB", as_json=True)
    with pytest.raises(InvalidRequestError, match="at most 163,840"):
        plan("deepseek-v3", "8xM4-Pro-64GB", as_json=True, context=200_000)


def test_a_plan_carries_the_chunks_asked_for_and_up_takes_no_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan("demo", "1xM4-Pro-64GB", as_json=True, cut=LoadOptions(chunk=256))
    file = tmp_path / "plan.json"
    file.write_text(capsys.readouterr().out)
    taken = wanted(None, str(file), None, None, LoadOptions())
    assert taken is not None
    assert taken.plan is not None
    assert taken.plan.chunks == ChunkRule.fixed(256)
    with pytest.raises(InvalidRequestError, match="make a new plan: moe-cluster plan demo --chunk 64 --json"):
        wanted(None, str(file), None, None, LoadOptions(chunk=64))
    with pytest.raises(InvalidRequestError, match=r"make a new plan: moe-cluster plan demo --latency 0\.5 --json"):
        wanted(None, str(file), None, None, LoadOptions(latency_s=0.5))


def test_a_plan_keeps_a_latency_and_chunks_are_set_in_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    plan("deepseek-v3", "8xM4-Pro-64GB", as_json=True, cut=LoadOptions(latency_s=0.6))
    assert json.loads(capsys.readouterr().out)["placement"]["chunks"]["longest"] == 128
    with pytest.raises(InvalidRequestError, match="--chunk and --latency both set"):
        LoadOptions(chunk=64, latency_s=0.6)
    with pytest.raises(InvalidRequestError, match="--latency must be more than 0"):
        LoadOptions(latency_s=-1.0)


def test_a_plan_for_fewer_bits_says_how_up_quantizes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan("demo", "1xM4-Pro-64GB", as_json=True, bits=3)
    file = tmp_path / "plan.json"
    file.write_text(capsys.readouterr().out)
    taken = wanted(None, str(file), None, None, LoadOptions())
    assert taken is not None
    assert taken.plan is not None
    assert taken.plan.recipe == uniform(3)
    assert taken.plan.content_hash


def test_a_spare_copy_is_planned_where_a_node_has_room(capsys: pytest.CaptureFixture[str]) -> None:
    plan("qwen3-235b", "4xM4-Max-128GB", as_json=True, standby=True)
    placement = Placement.from_json(json.loads(capsys.readouterr().out)["placement"])
    assert placement.standby is not None
    assert placement.standby.layers in [stage.layers for stage in placement.stages[1:]]
    plan("qwen3-235b", "4xM4-Max-128GB", as_json=False, standby=True)
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    (row,) = (row for row in rows if "spare copy" in row)
    spared = placement.standby.layers
    assert f"{placement.standby.node_id} spare copy of layers {spared.start}-{spared.stop - 1}" in row
    plan("deepseek-v3", "8xM4-Pro-64GB", as_json=False, standby=True)
    assert "spare copy" not in capsys.readouterr().out


def test_a_plan_that_is_given_says_itself_what_is_spared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan("demo", "2xM4-Pro-64GB", as_json=True)
    (path := tmp_path / "plan.json").write_text(capsys.readouterr().out)
    with pytest.raises(InvalidRequestError, match="moe-cluster plan demo --standby --json"):
        wanted("demo", str(path), None, None, LoadOptions(replace=True), standby=True)
    found = wanted("demo", None, None, None, LoadOptions(replace=True), standby=True)
    assert found is not None
    assert found.standby

"""bench local: what a model does on this machine, and what is refused before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cluster import moe_cluster, said

FEW = ("--prompt-tokens", "16", "--tokens", "8", "--rounds", "2")


def test_the_json_has_load_memory_speeds_and_growth(tmp_path: Path) -> None:
    told = json.loads(said(tmp_path, "bench", "local", "demo", *FEW, "--context", "64,1024", "--json"))
    assert told["asked"]["prompt_tokens"] == 16
    assert told["weights_bytes"] == pytest.approx(told["load_bytes_per_s"] * told["load_s"])
    assert told["weights_bytes"] < told["mlx_peak_bytes"] < told["process_peak_bytes"]
    for figure in ("prefill_tps", "decode_tps", "ttft_s"):
        assert 0 < told[figure]["min"] <= told[figure]["median"] <= told[figure]["max"]
    assert [grown["positions"] for grown in told["context"]] == [64, 1024]
    assert told["context"][1]["kv_bytes"] == 16 * told["context"][0]["kv_bytes"]


def test_the_table_is_for_people_and_the_model_s_context_is_its_end(tmp_path: Path) -> None:
    table = said(tmp_path, "bench", "local", "demo", *FEW)
    assert table.startswith("demo on this machine alone: prompt 16, answer 8 tokens, 2 rounds\n")
    assert all(word in table for word in ("load", "memory", "prefill", "decode", "first token"))
    growth = table.partition("positions")[2]
    assert [line.split()[0] for line in growth.splitlines()[2:]] == ["256", "1k"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--context", "2048"), "the context of demo is 2048: ask for at most 2047"),
        (("--context", "many"), "--context takes whole numbers"),
        (("--tokens", "2000"), "128 prompt tokens and 2000 tokens need 2128 positions; the context of demo is 2048"),
    ],
)
def test_what_the_context_lacks_is_refused_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    refused = moe_cluster(tmp_path, "bench", "local", "demo", *arguments)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert message in refused.err


def test_bench_alone_says_what_there_is_to_measure(tmp_path: Path) -> None:
    refused = moe_cluster(tmp_path, "bench")
    assert refused.code == 2
    assert "Usage:" in refused.out
    assert "moe-cluster bench local MODEL, bench cluster MODEL, or bench --emulate" in refused.err
    misplaced = moe_cluster(tmp_path, "bench", "--tokens", "8", "local", "demo")
    assert (misplaced.code, misplaced.out) == (2, "")
    assert "put the options of local after its name" in misplaced.err

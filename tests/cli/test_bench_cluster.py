"""bench cluster, over two real nodes; the trace that it writes, and the pictures that are drawn of it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import pictures
from cli.bench.stages import remembered, ring_figures
from cluster.membership.hardware import hardware
from cluster.timeline import Timeline
from tests.cli.test_cluster import moe_cluster, said
from tests.cluster.running import running_cluster
from tests.cluster.test_timeline import COMPUTE_S, ring

pytestmark = pytest.mark.slow

FEW = ("--prompt-tokens", "64", "--tokens", "12")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the home of a node of a cluster that serves the demo model on two."""
    measured = tmp_path_factory.mktemp("hardware") / "hardware.json"
    asyncio.run(hardware(measured))
    with running_cluster(tmp_path_factory.mktemp("nodes"), 2, measured) as cluster:
        cluster.load("demo", cluster.place("demo", [4, 2]))
        yield cluster.nodes[0].home.path
        cluster.unload()


@pytest.fixture(scope="module")
def trace(home: Path) -> Path:
    """Return the trace of a run whose table is right."""
    path = home / "trace.json"
    path.write_text("of before")
    table = said(home, "bench", "cluster", "demo", *FEW, "--trace", str(path))
    assert table.startswith("demo on 2 stages: prompt 64, answer 12 tokens\n")
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.startswith("mac-")}
    assert {name: row[0] for name, row in rows.items()} == {"mac-1": "0-3", "mac-2": "4-5"}
    assert all(len(row) == 6 for row in rows.values())
    assert "average idle time of a stage" in table
    assert "Other requests" not in table
    assert [line.split()[0] for line in table.partition("users")[2].splitlines()[2:]] == ["1", "2"]
    return path


def test_the_json_has_stages_hops_bubble_and_users(home: Path) -> None:
    told = json.loads(said(home, "bench", "cluster", "demo", *FEW, "--users", "2,1", "--json"))
    assert [stage["layers"] for stage in told["stages"]] == [[0, 4], [4, 6]]
    for stage in told["stages"]:
        assert 0 < stage["token_s"] < stage["chunk_s"]
        assert stage["hop_s"] > 0
        assert 0 < stage["decode_busy"] <= 1
    busy = [stage["decode_busy"] for stage in told["stages"]]
    assert told["decode_bubble"] == pytest.approx(1 - sum(busy) / 2)
    assert told["own_s"] > 0
    assert (told["cut"], told["mixed"]) == (False, False)
    assert [users["users"] for users in told["users"]] == [2, 1]
    assert told["users"][1]["times_one"] == 1


def test_the_trace_has_every_frame_of_the_answer_in_each_stage(trace: Path) -> None:
    told = json.loads(trace.read_text())
    assert told["otherData"] == {"emulated": False}
    slices = [event for event in told["traceEvents"] if event["ph"] == "X"]
    for stage in (0, 1):
        of_stage = [event for event in slices if event["pid"] == stage]
        assert sum(event["args"]["rows"] for event in of_stage if event["cat"] == "prefill") == 64
        positions = {event["args"]["position"] for event in of_stage if event["cat"] in ("decode", "draft")}
        assert positions == set(range(64, 75))  # nobody needs what follows the last token
    assert len({event["args"]["request"] for event in slices}) == 1
    assert list(trace.parent.glob(".trace*")) == []


def test_pictures_are_drawn_of_traces_and_of_emulated_speeds(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = [{"users": 1, "tokens_per_s": 9.0}, {"users": 2, "tokens_per_s": 17.5}]
    emulated: dict[str, Any] = {
        "asked": {"nodes": "8xM4-Pro-64GB", "model": "deepseek-v3", "users": [1, 2]},
        "placement": {"stages": [{}] * 8},
        "plain": {"decoded": speeds},
        "drafted": None,
        "predicted": {"tokens_per_s": {"1": 9.5, "2": 19.0}},
    }
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(emulated))
    drafted = tmp_path / "drafted.json"
    drafted.write_text(json.dumps(emulated | {"drafted": {"decoded": speeds}}))
    drawn = tmp_path / "drawn"
    arguments = ["pictures", str(drawn), "--trace", str(trace), str(plain), str(drafted)]
    monkeypatch.setattr(sys, "argv", arguments)
    pictures.main()
    for name in ("users", "nodes", "token", "prompt"):
        assert (drawn / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert ("emulated" in (drawn / f"{name}.svg").read_text()) == (name in ("users", "nodes"))
    assert "5.37" in (drawn / "nodes.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--users", "200"), "200 answers of 256 prompt tokens and 32 tokens need 288 positions each, 57600 in all"),
        (("--tokens", "2000"), "the context of demo is 2048"),
        (("--trace", "missing/trace.json"), "cannot write a trace to missing/trace.json"),
    ],
)
def test_what_has_no_room_is_refused_in_one_line(home: Path, arguments: tuple[str, ...], message: str) -> None:
    refused = moe_cluster(home, "bench", "cluster", "demo", *arguments)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert message in refused.err


def test_without_a_node_there_is_no_cluster_to_measure(tmp_path: Path) -> None:
    refused = moe_cluster(tmp_path, "bench", "cluster", "demo")
    assert (refused.code, refused.out) == (9, "")
    assert "moe-cluster up" in refused.err


def test_figures_are_medians_shares_and_what_is_the_coordinators_own() -> None:
    figures = ring_figures(Timeline(tuple(ring([[1e-3, 3e-3]] * 3))))
    assert [stage.token_s for stage in figures.stages] == pytest.approx([COMPUTE_S] * 2)
    assert [stage.hop_s for stage in figures.stages] == pytest.approx([1e-3, 3e-3])
    assert [stage.chunk_s for stage in figures.stages] == [None, None]
    window_s = 3 * (2 * COMPUTE_S + 4e-3) + 2 * 2e-3 + 1e-6
    assert figures.stages[1].decode_busy == pytest.approx(3 * COMPUTE_S / window_s)
    assert figures.own_s == pytest.approx(2e-3, abs=4e-4)  # of the first turn a part was before the window
    assert figures.prefill_bubble is None


def test_what_one_stage_forgot_does_not_count_in_the_others() -> None:
    timeline = Timeline(tuple(ring([[2e-3, 3e-3]] * 3)))
    first, second = timeline.stages  # of nine spans and of three
    assert remembered(timeline, 10) is timeline
    forgetful = Timeline((replace(first, spans=first.spans[5:]), second))  # the second turn's end, and all after it
    assert [len(stage.spans) for stage in remembered(forgetful, 4).stages] == [3, 2]

"""Hardware: the probe as a process, the cache, and descriptions that come from elsewhere."""

import asyncio
import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ClusterError
from cluster.membership import hardware
from cluster.membership.hardware import Hardware
from mlx_moe import memory

MAC = Hardware(
    chip="Apple M4 Pro",
    backend="metal",
    dtype="bfloat16",
    memory_bytes=64 << 30,
    budget_bytes=48 << 30,
    bandwidth_gbps=250.0,
    matmul_tflops=6.3,
    platform="macOS-15.1-arm64-arm-64bit",
    mlx_version="0.32.4",
    measured_at=1.8e9,
)


def run(cache: Path) -> Hardware:
    return asyncio.run(hardware.hardware(cache))


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a program that says MAC, and counts its starts in the file returned, be the probe."""
    starts = tmp_path / "starts"
    script = f"open({str(starts)!r}, 'a').write('x'); print({json.dumps(MAC.to_json())!r})"
    monkeypatch.setattr(hardware, "PROBE", (sys.executable, "-c", script))
    return starts


def test_this_machine_is_measured_once(tmp_path: Path) -> None:
    measured = run(tmp_path / "hardware.json")
    assert measured.memory_bytes == psutil.virtual_memory().total
    assert measured.budget_bytes == memory.budget_bytes()
    assert measured.mlx_version == hardware.mlx_version()
    assert measured.bandwidth_gbps > 0.1
    assert measured.matmul_tflops > 0.0001
    assert run(tmp_path / "hardware.json") == measured


def test_a_cache_of_this_machine_spares_the_measurement(tmp_path: Path, probe: Path) -> None:
    assert [run(tmp_path / "cache"), run(tmp_path / "cache")] == [MAC, MAC]
    assert probe.read_text() == "x"


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda text: text[: len(text) // 2],
        lambda _: "[]",
        lambda text: json.dumps(json.loads(text) | {"machine": "another"}),
        lambda text: json.dumps(json.loads(text) | {"hardware": {"chip": "M9"}}),
    ],
)
def test_a_damaged_or_foreign_cache_is_measured_anew(tmp_path: Path, probe: Path, damage: Any) -> None:
    cache = tmp_path / "cache"
    run(cache)
    cache.write_text(damage(cache.read_text()))
    assert [run(cache), run(cache)] == [MAC, MAC]
    assert probe.read_text() == "xx"


def test_another_mlx_is_measured_anew(tmp_path: Path, probe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path / "cache")
    monkeypatch.setattr(hardware, "mlx_version", lambda: "99.0")
    run(tmp_path / "cache")
    assert probe.read_text() == "xx"


def test_a_cache_that_cannot_be_written_stops_nobody(
    tmp_path: Path, probe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert run(tmp_path / "missing" / "cache") == MAC
    assert "measured again at the next start" in caplog.text
    assert probe.read_text() == "x"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("import sys; sys.exit('no Metal device')", "ended with code 1: no Metal device"),
        ("print('hello')", "answered no JSON: 'hello"),
        ("print('{}')", "chip='None'"),
        ("import time; time.sleep(1e4)", "did not finish within 0.3 s"),
    ],
)
def test_a_probe_that_fails_is_an_error_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(hardware, "PROBE", (sys.executable, "-S", "-c", script))
    if "sleep" in script:
        monkeypatch.setattr(hardware, "DEADLINE_S", 0.3)
    with pytest.raises(ClusterError, match=message):
        run(tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_daemons_side_imports_no_mlx() -> None:
    script = (
        "import sys; from cluster.membership import discovery, hardware, membership; print('mlx.core' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "False"


def test_a_description_survives_json() -> None:
    assert Hardware.from_json(json.loads(json.dumps(MAC.to_json()))) == MAC


@given(
    st.sampled_from([field.name for field in dataclasses.fields(Hardware)]),
    st.one_of(
        st.none(),
        st.just(True),
        st.sampled_from(["", "\x1b[2J", "x" * 201, float("nan"), float("inf"), -1, 0, -1.0, 0.0, 2**63, 1e300]),
        st.lists(st.integers()),
    ),
)
def test_a_description_that_cannot_be_is_refused(field: str, value: object) -> None:
    with pytest.raises(ClusterError, match=field):
        Hardware.from_json(MAC.to_json() | {field: value})

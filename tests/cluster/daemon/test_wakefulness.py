"""Wakefulness: the command runs while it is needed, and only then."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import psutil
import pytest

from cluster.daemon import wakefulness
from tests.patience import PATIENCE_S

SLEEPER = (
    sys.executable,
    "-c",
    "import pathlib, os, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)",
)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakefulness, "CHECK_S", 0.01)


async def written(path: Path) -> int:
    while not (path.exists() and path.read_text()):
        await asyncio.sleep(0.01)
    return int(path.read_text())


def test_the_machine_is_kept_awake_while_that_is_needed(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, int]:
        needed, told = True, tmp_path / "pid"
        keeping = asyncio.create_task(wakefulness.keep_awake(lambda: needed, (*SLEEPER, str(told))))
        async with asyncio.timeout(PATIENCE_S):
            first = await written(told)
            assert psutil.pid_exists(first)
            needed = False
            while psutil.pid_exists(first):
                await asyncio.sleep(0.01)
            told.unlink()
            needed = True
            second = await written(told)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
        return first, second

    first, second = asyncio.run(scenario())
    assert first != second
    assert not psutil.pid_exists(second)


def test_a_machine_without_the_command_is_left_alone() -> None:
    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await wakefulness.keep_awake(lambda: True, ())
            await wakefulness.keep_awake(lambda: True, ("/nowhere/caffeinate",))

    asyncio.run(scenario())


def test_only_a_mac_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert not wakefulness.caffeinate()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert wakefulness.caffeinate()[:3] == ("/usr/bin/caffeinate", "-is", "-w")

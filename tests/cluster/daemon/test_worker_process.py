"""WorkerProcess: however a child ends, its daemon hears how, and nothing of it is left."""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.daemon import worker_process as module
from cluster.daemon.worker_process import WorkerProcess, worker_process
from cluster.wire import worker_pb2 as pb
from cluster.worker import pipe
from tests.patience import PATIENCE_S

ECHO = """
import sys
sys.stdout.buffer.write({event!r})
sys.stdout.flush()
{then}
"""
LOADED = pb.WorkerEvent(loaded=pb.ShardLoaded(port=7))


def run(
    monkeypatch: pytest.MonkeyPatch,
    directory: Path,
    then: str,
    scenario: Callable[[WorkerProcess], Coroutine[Any, Any, None]],
    terminate_s: float = PATIENCE_S,
) -> int:
    """Run a child that says that it is loaded, then does something; return its process id."""
    monkeypatch.setattr(module, "TERMINATE_S", terminate_s)
    script = directory / "child.py"
    script.write_text(ECHO.format(event=pipe.framed(LOADED), then=then))
    start = asyncio.create_subprocess_exec

    async def child(program: str, *_arguments: str, **options: Any) -> asyncio.subprocess.Process:
        return await start(program, str(script), **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", child)

    async def with_worker() -> int:
        started = worker_process(directory, "a", "mac-1", ("127.0.0.1",), insecure=False, log_path=directory / "log")
        async with asyncio.timeout(PATIENCE_S), started as worker:
            await scenario(worker)
        return worker.pid

    pid = asyncio.run(with_worker())
    assert not psutil.pid_exists(pid)
    return pid


async def all_events(worker: WorkerProcess) -> list[pb.WorkerEvent]:
    return [event async for event in worker.events()]


def failure_of(monkeypatch: pytest.MonkeyPatch, directory: Path, then: str) -> str:
    events: list[pb.WorkerEvent] = []

    async def scenario(worker: WorkerProcess) -> None:
        events.extend(await all_events(worker))

    run(monkeypatch, directory, then, scenario)
    assert events[0] == LOADED
    return events[1].failure.message if len(events) > 1 else ""


def test_a_worker_that_is_killed_is_reported_with_the_signal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = failure_of(monkeypatch, tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert said == f"the worker was ended by SIGKILL (see {tmp_path / 'log'})"


def test_a_worker_that_crashes_is_reported_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "ended with code 1: ValueError: so not" in failure_of(monkeypatch, tmp_path, "raise ValueError('so not')")


def test_a_worker_that_crashes_by_a_signal_is_reported_with_its_own_last_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "log").write_text("Fatal Python error: of an earlier worker\n")
    crash = "import faulthandler, os; faulthandler.enable(); os.abort()"
    assert "by SIGABRT: Fatal Python error: Aborted (see" in failure_of(monkeypatch, tmp_path, crash)
    assert "by SIGKILL (see" in failure_of(monkeypatch, tmp_path, "import os; os.kill(os.getpid(), 9)")


def test_a_worker_that_ends_in_order_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert failure_of(monkeypatch, tmp_path, "") == ""


def test_a_worker_ends_with_its_input_and_hears_what_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def scenario(worker: WorkerProcess) -> None:
        await worker.tell(pb.WorkerCommand(stop=pb.StopWorker(reason="enough")))

    heard = tmp_path / "heard"
    run(monkeypatch, tmp_path, f"open({str(heard)!r}, 'wb').write(sys.stdin.buffer.read())", scenario)
    assert b"enough" in heard.read_bytes()


def test_what_is_told_to_a_worker_that_is_gone_is_lost_quietly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def scenario(worker: WorkerProcess) -> None:
        await all_events(worker)
        for _ in range(3):
            await worker.tell(pb.WorkerCommand(stop=pb.StopWorker(reason="x" * 100_000)))

    run(monkeypatch, tmp_path, "", scenario)


@pytest.mark.parametrize("ignored", ["", "SIGTERM"])
def test_a_worker_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ignored: str) -> None:
    signals = f"import signal; signal.signal(signal.{ignored}, signal.SIG_IGN); " if ignored else ""

    async def scenario(worker: WorkerProcess) -> None:
        assert await anext(worker.events()) == LOADED

    run(monkeypatch, tmp_path, f"{signals}import time; time.sleep(1e4)", scenario, terminate_s=0.3)


@pytest.mark.parametrize("ignored", ["", "SIGTERM"])
def test_a_worker_that_is_loading_is_interrupted_when_it_is_told_to_stop(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ignored: str
) -> None:
    codes: list[str] = []

    async def scenario(worker: WorkerProcess) -> None:
        events = worker.events()
        assert [await anext(events), await anext(events)] == [LOADED, LOADED]  # of another epoch
        await worker.tell(pb.WorkerCommand(load=pb.LoadShard(epoch=1)))
        await worker.tell(pb.WorkerCommand(stop=pb.StopWorker(reason="enough")))
        codes.extend([event.failure.message async for event in events])

    signals = f"import signal; signal.signal(signal.{ignored}, signal.SIG_IGN); " if ignored else ""
    monkeypatch.setattr(module, "INTERRUPT_S", 0.3)
    ignoring = f"sys.stdout.buffer.write({pipe.framed(LOADED)!r}); sys.stdout.flush(); "
    run(monkeypatch, tmp_path, f"{signals}{ignoring}import time; time.sleep(1e4)", scenario)
    assert f"ended by {'SIGKILL' if ignored else 'SIGTERM'}" in codes[0]


def test_a_cancelled_daemon_task_ends_its_worker_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pids: list[int] = []

    async def scenario(worker: WorkerProcess) -> None:
        pids.append(worker.pid)
        asyncio.get_running_loop().call_later(0.1, asyncio.current_task().cancel)  # type: ignore[union-attr]
        await all_events(worker)

    with pytest.raises(asyncio.CancelledError):
        run(monkeypatch, tmp_path, "sys.stdin.read()", scenario)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], signal.SIGCONT)


CONNECTED = pb.WorkerEvent(connected=pb.WorkersConnected(epoch=1))


@pytest.mark.parametrize("lives", [True, False])
def test_a_worker_that_serves_and_says_nothing_any_more_is_killed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lives: bool
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.05)
    monkeypatch.setattr(module, "SILENCE_S", 2.0)
    says = f"sys.stdout.buffer.write({pipe.framed(CONNECTED)!r}); sys.stdout.flush(); "
    beat = f"sys.stdout.buffer.write({pipe.framed(pb.WorkerEvent())!r}), sys.stdout.flush()"
    beats = f"[(time.sleep(0.1), {beat}) for _ in range(30)]"
    events: list[pb.WorkerEvent] = []

    async def scenario(worker: WorkerProcess) -> None:
        events.extend(await all_events(worker))

    run(monkeypatch, tmp_path, f"{says}import time; {beats if lives else 'time.sleep(1e4)'}", scenario)
    assert events[:2] == [LOADED, CONNECTED]
    said = [event.failure.message for event in events[2:]]
    assert said == ([] if lives else [f"the worker said nothing for 2 s and was killed (see {tmp_path / 'log'})"])

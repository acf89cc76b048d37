"""WorkerProcess: the daemon's handle on a worker, a child process with a pipe in each direction."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from cluster.errors import NodeLostError
from cluster.wire import worker_pb2 as pb
from cluster.worker import pipe

log = logging.getLogger(__name__)

TERMINATE_S = 5.0
"""How long a worker may take to end after its input has closed; then it gets SIGTERM and as long again."""

INTERRUPT_S = 1.5
"""How long a worker may take to end after its load was interrupted; then it is killed."""

LOOK_S = 0.5
SILENCE_S = 4.5
LOADING_SILENCE_S = 60.0
"""A worker that says nothing for so long is killed: it stands still. While it loads, one call may take long."""

_TAIL_BYTES = 64 << 10
_LINE_CHARACTERS = 300
_FATAL = "Fatal Python error: "
"""What `faulthandler` writes first when a worker crashes by a signal."""

_ENVIRONMENT = {
    # glibc returns freed large buffers to the kernel: 26 ms for an 8 MiB message; 4 ms with these settings.
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_MMAP_THRESHOLD_": str(64 << 20),
}


class WorkerProcess:
    """A running worker. What it writes to standard error goes to `log_path`, from byte `log_start` on."""

    def __init__(self, process: asyncio.subprocess.Process, log_path: Path, log_start: int) -> None:
        self._process = process
        self._log_path = log_path
        self._log_start = log_start
        self._loading_epoch = 0
        self._interrupting: asyncio.Task[None] | None = None
        self._serves = False
        self._silent_s = 0.0

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def tell(self, command: pb.WorkerCommand) -> None:
        """Send a command; ignored if the worker has ended. It hears `stop` while it loads, too."""
        assert self._process.stdin is not None
        if (epoch := max(command.load.epoch, command.reconfigure.epoch)) > 0:
            self._loading_epoch = epoch
        with suppress(ConnectionError):
            self._process.stdin.write(pipe.framed(command))
            await self._process.stdin.drain()
        if command.HasField("stop") and self._loading_epoch and self._interrupting is None:
            self._interrupting = asyncio.create_task(self._interrupt())

    async def events(self) -> AsyncIterator[pb.WorkerEvent]:
        """Yield the worker's events until it ends; an unexpected end is yielded as a failure, which is a loss."""
        has_failed = False
        while (event := await self._next()) is not None:
            if event.HasField("loaded") and event.loaded.epoch == self._loading_epoch:
                self._loading_epoch = 0
            if event.HasField("connected") or event.HasField("disconnected"):
                self._serves = event.HasField("connected")
            has_failed |= event.HasField("failure")
            if event.WhichOneof("event") is not None:  # it says twice a second that it lives
                yield event
        code = await self._process.wait()
        if code and not has_failed:
            yield pb.WorkerEvent(failure=pb.WorkerFailure(code=NodeLostError.code, message=self._ending(code)))

    async def _next(self) -> pb.WorkerEvent | None:
        """Return the next event, None at the end; a worker that is silent for too long is killed.

        Counts looks, not seconds: this process may be stopped together with its worker.
        """
        assert self._process.stdout is not None
        reading = asyncio.create_task(pipe.read(self._process.stdout, pb.WorkerEvent()))
        try:
            for looks in itertools.count(1):
                await asyncio.wait((reading,), timeout=LOOK_S)
                if reading.done():
                    break
                if looks * LOOK_S >= (SILENCE_S if self._serves else LOADING_SILENCE_S):
                    self._silent_s = self._silent_s or looks * LOOK_S
                    log.error("event=worker_silent pid=%d seconds=%g", self.pid, self._silent_s)
                    with suppress(ProcessLookupError):
                        self._process.kill()
            return reading.result()
        finally:
            reading.cancel()

    async def _interrupt(self) -> None:
        """Interrupt a load, by force if it does not end by itself."""
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                self._process.send_signal(signum)
            with suppress(TimeoutError):
                async with asyncio.timeout(INTERRUPT_S):
                    await self._process.wait()
                    return

    def _ending(self, code: int) -> str:
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        if self._silent_s:
            how = f"said nothing for {self._silent_s:g} s and was killed"
        with suppress(OSError), self._log_path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            start = self._log_start if self._log_start <= end else 0  # it was moved, and this is the next file
            log.seek(max(start, end - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").strip().splitlines()
            if last := [line for line in lines if code > 0 or line.startswith(_FATAL)][-1:]:
                how += f": {last[0][:_LINE_CHARACTERS]}"
        return f"the worker {how} (see {self._log_path})"


@asynccontextmanager
async def worker_process(
    home: Path,
    node_id: str,
    name: str,
    hosts: Sequence[str],
    *,
    insecure: bool,
    log_path: Path,
    module: str = "cluster.worker",
) -> AsyncIterator[WorkerProcess]:
    """Start a worker that listens on `hosts`; at the end of the block it is stopped, gently first.

    `module` is what runs in it.
    """
    arguments = (str(home), node_id, name, ",".join(hosts), *(["--insecure"] if insecure else []))
    with log_path.open("ab") as output:
        log_start = output.seek(0, os.SEEK_END)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", module, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            limit=pipe.MAX_MESSAGE_BYTES,
            env={**os.environ, **_ENVIRONMENT},
            start_new_session=True,  # Ctrl-C at the daemon's terminal is the daemon's to handle
        )
    log.info("event=worker_started pid=%d", process.pid)
    try:
        yield WorkerProcess(process, log_path, log_start)
    finally:
        await asyncio.shield(_end(process))
        log.info("event=worker_ended pid=%d code=%s", process.pid, process.returncode)


async def _end(process: asyncio.subprocess.Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(TimeoutError):
            async with asyncio.timeout(TERMINATE_S):
                await process.wait()
                return
        with suppress(ProcessLookupError):
            process.send_signal(signum)
    await process.wait()

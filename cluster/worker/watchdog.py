"""Watchdog: a thread that tells the daemon twice a second that this worker lives, or that its computing is stuck."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time
from collections.abc import Callable

from cluster.errors import NodeLostError
from cluster.wire import worker_pb2 as pb
from cluster.worker.watch import Watch

log = logging.getLogger(__name__)

LOOK_S = 0.5

LOOP_S = 20.0
"""How long the event loop may handle nothing while no step is computed."""

STUCK_CODE = 75
"""The exit code of a worker that its watchdog has ended."""


class Watchdog:
    """Looks at the watch of what is served, if any: `watched` returns it. `report` sends an event to the daemon."""

    def __init__(self, watched: Callable[[], Watch | None], report: Callable[[pb.WorkerEvent], None]) -> None:
        self._watched = watched
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._has_run = True
        self._looks = 0

    def start(self) -> None:
        """Start the thread, which lasts as long as the process."""
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            if reason := self._stuck(self._watched(), time.monotonic()):
                self._end(reason)
            try:
                self._report(pb.WorkerEvent())
            except OSError:  # the daemon has ended
                return

    def _stuck(self, watch: Watch | None, now: float) -> str:
        """Return why the worker is stuck, "" if it is not. Counts looks, not seconds: this process may be stopped."""
        overdue = "" if watch is None else watch.overdue(now)
        if self._has_run:
            self._has_run = False
            self._loop.call_soon_threadsafe(self._run_in_loop)
            self._looks = 0
        elif watch is not None and not watch.is_computing:
            self._looks += 1
        silent_s = self._looks * LOOK_S
        return overdue or (f"it has handled nothing for {silent_s:g} s" if silent_s > LOOP_S else "")

    def _run_in_loop(self) -> None:
        self._has_run = True

    def _end(self, reason: str) -> None:
        """Say where each thread is, tell the daemon, and end this process."""
        log.critical("event=stuck reason=%r", reason)
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
        message = f"the worker is stuck: {reason}"
        self._report(pb.WorkerEvent(failure=pb.WorkerFailure(code=NodeLostError.code, message=message)))
        os._exit(STUCK_CODE)

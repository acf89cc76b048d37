"""Wakefulness: keeps a Mac awake while it holds a part of a model, with the system's own `caffeinate`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

log = logging.getLogger(__name__)

CHECK_S = 1.0


def caffeinate() -> Sequence[str]:
    """Return the command that keeps this machine awake until it or this process ends; nothing if there is none.

    No sleep from idling (-i), nor any other on mains power (-s). A closed lid is stronger.
    """
    return ("/usr/bin/caffeinate", "-is", "-w", str(os.getpid())) if sys.platform == "darwin" else ()


async def keep_awake(is_needed: Callable[[], bool], command: Sequence[str]) -> None:
    """Run a command whenever it is needed, until cancelled. Does nothing without a command."""
    process: asyncio.subprocess.Process | None = None
    try:
        while command:
            if is_needed() and (process is None or process.returncode is not None):
                process = await _started(command)
                if process is None:
                    return
            elif not is_needed() and process is not None:
                await _end(process)
                process = None
            await asyncio.sleep(CHECK_S)
    finally:
        if process is not None:
            await _end(process)


async def _started(command: Sequence[str]) -> asyncio.subprocess.Process | None:
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
        )
    except OSError as error:
        log.warning("event=may_sleep command=%s error=%s", command[0], error)
        return None
    log.info("event=kept_awake pid=%d", process.pid)
    return process


async def _end(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    await process.wait()
    log.info("event=may_sleep_again")

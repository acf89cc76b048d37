"""Uses: when this machine last loaded each model, by directory, and which directories processes are using now.

A record of its own, since file systems that note accesses at all do so once a day, and listing models reads them too.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mlx_moe.checkpoint import durable_file

MAX_TIME_S = 1e12
"""Larger numbers are no times, and may be too large for a float."""

log = logging.getLogger(__name__)


class Uses:
    """The record in a file of a home."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def note(self, directory: Path) -> None:
        """Record that a model's directory is loaded now. A record that cannot be written stays as it is."""
        here = {path: when for path, when in self.read().items() if Path(path).exists()}
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable_file.write(self._path, json.dumps(here | {_key(directory): time.time()}).encode())
        except OSError as error:
            log.warning("event=use_not_recorded directory=%s error=%s", directory, error)

    def last(self, directory: Path) -> float | None:
        """Return when a directory was last loaded, in seconds since 1970; None if it never was."""
        return self.read().get(_key(directory))

    def read(self) -> Mapping[str, float]:
        """Return all times by path; nothing if the record is missing or damaged."""
        try:
            value = json.loads(self._path.read_text())
        except (OSError, ValueError, RecursionError):
            return {}
        entries = value.items() if isinstance(value, dict) else ()
        return {
            path: float(when) for path, when in entries if isinstance(when, (int, float)) and abs(when) < MAX_TIME_S
        }


class Using:
    """Says to other processes that this one uses a model's directory: by a shared lock on it, until it is closed."""

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def close(self) -> None:
        """End the use."""
        os.close(self._descriptor)


def is_in_use(directory: Path) -> bool:
    """Whether a process uses a model's directory, see `Using`."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(descriptor)
    return False


def _key(directory: Path) -> str:
    return str(directory.resolve())

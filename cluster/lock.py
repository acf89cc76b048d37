"""Lock: a lock on a file that a process loses when it ends, so that a held lock means a running process."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import ClusterError, HeldError

POLL_S = 0.02


@contextmanager
def held(path: Path, within_s: float) -> Iterator[None]:
    """Hold the lock within the block. Blocks this thread for up to `within_s`.

    Raises:
        HeldError: another process still holds it after that time.
        ClusterError: the file cannot be locked.
    """
    deadline = time.monotonic() + within_s
    try:
        file = path.open("a")
    except OSError as exc:
        raise ClusterError(f"{path} cannot be opened: {exc.strerror}") from exc
    with file:
        while not _take(file.fileno(), fcntl.LOCK_EX, path):
            if time.monotonic() > deadline:
                raise HeldError(f"another process has held {path} for {within_s:g} s: try again in a moment")
            time.sleep(POLL_S)
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the lock. Raises ClusterError if that cannot be determined."""
    try:
        with path.open() as file:
            return not _take(file.fileno(), fcntl.LOCK_SH, path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        raise ClusterError(f"{path} cannot be opened: {exc.strerror}") from exc


def _take(descriptor: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        raise ClusterError(
            f"{path} cannot be locked: {exc.strerror}; $MOE_CLUSTER_HOME must be on a local disk"
        ) from exc
    return True

"""Durable file: writes a file so that after a crash its name has either the old bytes or all of the new ones."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_moe.errors import CheckpointError


@contextmanager
def replacing(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield the path to write to; then sync it and rename it to `path`. After an exception it is removed.

    The path to write to is `partial`, on the same disk, or one beside `path` that no other thread or process uses.
    """
    partial = partial or path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield partial
        sync_path(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_path(path.parent)


def remove_partials(directory: Path) -> None:
    """Remove what killed processes have left of files beside which they wrote; no process may be writing now."""
    for partial in directory.glob(".*.partial"):
        if partial.is_file():
            partial.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Write a file of these bytes."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def sync_path(path: Path) -> None:
    """Wait until a file's bytes, or the names in a directory, survive a power failure."""
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync(fd: int) -> None:
    """Wait until the bytes of an open file survive a power failure; on macOS fsync leaves them in the drive's cache."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fsync(fd)


@contextmanager
def written(path: Path, nbytes: int) -> Iterator[None]:
    """Translate what the system says about writing `nbytes` to a file into CheckpointError."""
    try:
        yield
    except OSError as exc:
        raise _unwritable(path, nbytes, exc) from exc


def free_bytes(directory: Path) -> int:
    """Return the bytes that may still be written to the disk of a directory, which need not exist."""
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free


def _unwritable(path: Path, nbytes: int, exc: OSError) -> CheckpointError:
    if exc.errno not in (errno.ENOSPC, errno.EDQUOT):
        return CheckpointError(f"{path} cannot be written: {exc.strerror}")
    return CheckpointError(
        f"{path}: the disk is full: {nbytes:,} more bytes are needed, {free_bytes(path.parent):,} are free; delete "
        f"files there (`moe-cluster rm MODEL` deletes a model) and repeat the command: what is complete is kept"
    )

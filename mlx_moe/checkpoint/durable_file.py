"""Durable file: writes a file so that after a crash its name has either the old bytes or all of the new ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """Yield the path to write to; then sync it and rename it to `path`. After an exception it is removed.

    The path to write to is `partial`, on the same disk, or one beside `path`.
    """
    partial = partial or path.with_name(f".{path.name}.partial")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write(path: Path, data: bytes) -> None:
    """Write a file of these bytes."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a directory, survive a power failure."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

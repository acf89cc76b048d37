"""Opening a file that came from elsewhere: only if it is one, and without waiting for anybody."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

from mlx_moe.errors import CheckpointError


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read it. Raises CheckpointError for anything else; a pipe does not block."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path} cannot be read: {getattr(exc, 'strerror', exc)}") from exc
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise CheckpointError(f"{path} is not a regular file")
    return os.fdopen(fd, "rb")


def identity(file: BinaryIO) -> tuple[int, int, int]:
    """Return what tells that a file is still the one it was: inode, size, time of change."""
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns

"""Regular file: opens untrusted files: only regular ones, without blocking, and no other user's file through a link."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from mlx_moe.errors import CheckpointError

_FLAGS = os.O_RDONLY | os.O_NONBLOCK


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading. Does not block on a pipe.

    A link is followed if its target belongs to this user or to the owner of the directory that contains the link.

    Raises:
        CheckpointError: it cannot be read, is not a regular file, or is a link to another user's file.
    """
    try:
        fd, is_link = _open(path)
    except (OSError, ValueError) as exc:
        raise CheckpointError(f"{path} cannot be read: {getattr(exc, 'strerror', exc)}") from exc
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise CheckpointError(f"{path} is not a regular file")
    if is_link and status.st_uid not in (os.getuid(), path.parent.stat().st_uid):
        os.close(fd)
        raise CheckpointError(
            f"{path} is a link to {path.resolve()}, which belongs to user {status.st_uid}: links are followed to your "
            f"own files and to those of the directory's owner; copy the file in place of the link"
        )
    return os.fdopen(fd, "rb")


def _open(path: Path) -> tuple[int, bool]:
    """Return a file descriptor and whether `path` is a link, determined by the call that opens it (no race)."""
    try:
        return os.open(path, _FLAGS | os.O_NOFOLLOW), False
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        return os.open(path, _FLAGS), True


def identity(file: BinaryIO) -> tuple[int, int, int, int]:
    """Return inode, size, modification time and device of a file; equal values mean that it is unchanged."""
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_dev

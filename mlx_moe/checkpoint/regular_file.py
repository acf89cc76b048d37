"""Opening a file that came from elsewhere: only a regular one, without waiting, and no stranger's through a link."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from mlx_moe.errors import CheckpointError

_FLAGS = os.O_RDONLY | os.O_NONBLOCK


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read it; a pipe does not block.

    A link is followed to a file of this user, or of the owner of the directory that the link is in.

    Raises:
        CheckpointError: it cannot be read, is anything else, or is a link to somebody else's file.
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
    """Return a file descriptor and whether `path` is a link, told by the same call that opens it."""
    try:
        return os.open(path, _FLAGS | os.O_NOFOLLOW), False
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        return os.open(path, _FLAGS), True


def identity(file: BinaryIO) -> tuple[int, int, int, int]:
    """Return what tells that a file is still the one it was: inode, size, time of change, device."""
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_dev

"""Private file: readable only by its owner, and replaced atomically."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from pathlib import Path

from cluster.errors import ClusterError, TrustError


def write(path: Path, data: bytes) -> None:
    """Replace the file, creating it and its directory if needed; a power cut leaves the old or the new content.

    Raises:
        ClusterError: the disk is full or cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                _to_disk(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as exc:
        raise ClusterError(f"{path} cannot be written: {exc.strerror}") from exc


def _to_disk(descriptor: int) -> None:
    """Wait until the file is on the disk; on macOS fsync leaves it in the drive's cache."""
    if hasattr(fcntl, "F_FULLFSYNC"):
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


def read(path: Path) -> bytes:
    """Return the content. Raises TrustError if other users may read the file, OSError if it cannot be read."""
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise TrustError(f"{path} is open to other users (mode {mode:04o}); close it with: chmod 600 {path}")
        return file.read()

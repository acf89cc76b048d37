"""Private file: readable by its owner alone, and never half written."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from cluster.errors import TrustError


def write(path: Path, data: bytes) -> None:
    """Replace the file, or make it and its directory; after a crash either the old or the new content is there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read(path: Path) -> bytes:
    """Return the content. Raises TrustError for a file that others may read, OSError where there is none."""
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise TrustError(f"{path} is open to other users (mode {mode:04o}); close it with: chmod 600 {path}")
        return file.read()

"""Control socket: the Unix socket where a node listens to its own machine's command line. Only its owner can open it.

The system checks that: it lets nobody else connect to a socket of mode 0600, or enter a directory of mode 0700. So what
strangers do on the network never keeps a person from commanding the own node. Knows nothing of the calls.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from cluster.errors import ClusterError, TrustError
from cluster.home import Home

NAME = "control"

MAX_PATH_BYTES = 103
"""Longest path of a Unix socket on macOS; Linux allows 107."""

_ID_DIGITS = 12


def target(path: Path) -> str:
    """Return a socket's path as gRPC's servers and channels take it."""
    return "unix:" + quote(str(path))


def require_own(home: Home, path: Path) -> None:
    """Raise TrustError if a socket outside of the home is in a directory that another user may have made."""
    if path.parent != home.path:
        _require_private(path.parent)


@contextmanager
def private_path(home: Home) -> Iterator[Path]:
    """Yield the path for a home's socket, which the block creates; only its owner can open it, at no moment others.

    It is in the home; or, where that path is too long for a socket, in a directory of its own for temporary files.

    Raises:
        ClusterError: there is no such path.
    """
    path = home.path / NAME
    if not _fits(path):
        path = _short_directory(home) / NAME
        _require_private(path.parent)
    before = os.umask(0o077)  # not 0o177: another thread may create a directory now
    try:
        yield path
        path.chmod(0o600)
    finally:
        os.umask(before)


def _short_directory(home: Home) -> Path:
    """Create the directory of a home with a long path. Raises ClusterError."""
    name = f"moe-cluster-{hashlib.sha256(os.fsencode(home.path)).hexdigest()[:_ID_DIGITS]}"
    places = (Path(tempfile.gettempdir()), Path("/tmp"))  # `_require_private` checks who made it
    try:
        directory = next(place / name for place in places if _fits(place / name / NAME))
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        raise ClusterError(
            f"{home.path} is too long a path for a Unix socket, and {directory} cannot be made: {exc.strerror}; set "
            "MOE_CLUSTER_HOME to a shorter path"
        ) from exc
    return directory


def _require_private(directory: Path) -> None:
    """Raise TrustError unless a directory is this user's, and closed to all others."""
    try:
        status = directory.lstat()
    except OSError as exc:
        raise ClusterError(f"{directory} is gone: end the node's process, then moe-cluster up makes it again") from exc
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise TrustError(f"{directory} is not a directory of this user alone: delete it, then moe-cluster up again")


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= MAX_PATH_BYTES

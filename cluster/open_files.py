"""Open files: raises this process's limit of open files and connections, 256 on macOS unless it was changed."""

from __future__ import annotations

import resource

WANTED = 4096
"""Connections of strangers and nodes to two ports, and the files of a large checkpoint."""


def allow() -> None:
    """Raise the limit to WANTED, or as far as the system lets this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

"""logs: prints what a node's daemon and worker logged, and follows it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from cli.interrupt import Interrupt
from cli.visible import visible
from cluster import log_files
from cluster.client import OwnNode
from cluster.errors import NodeLostError
from cluster.home import Home

FOLLOW_S = 0.3
"""How often new lines are read."""

Read = Callable[[str], tuple[list[str], str]]
"""Reads the last lines for "", else those after a cursor; returns them and a cursor."""


def show(node: str | None, n_lines: int, *, follow: bool) -> None:
    """Print the last lines of this node's logs or another's; with `follow` go on until Ctrl-C.

    Raises:
        NoClusterError: no node runs here, and another node's logs are wanted.
        NodeLostError: that node is not present.
    """
    home = Home.default()
    if node is None:
        _print_all(lambda cursor: _read_here(home, cursor, n_lines), follow)
        return
    with OwnNode.connect(home) as own:
        _print_all(lambda cursor: own.log_lines(node, n_lines, cursor), follow)


def _read_here(home: Home, cursor: str, n_lines: int) -> tuple[list[str], str]:
    """Read this machine's files; no node needs to run."""
    if cursor:
        lines, read = log_files.following(home.logs, log_files.Cursor.parse(cursor))
    else:
        lines, read = log_files.last(home.logs, n_lines)
        lines += log_files.failed_start(home.logs)
    return lines, str(read)


def _print_all(read: Read, follow: bool) -> None:
    lines, cursor = read("")
    _print(lines)
    if not lines and not follow:
        print("nothing has been logged", file=sys.stderr)
    if not follow:
        return
    with Interrupt() as interrupt:
        lost = False
        while not interrupt.requested:
            interrupt.wait(FOLLOW_S)
            try:
                lines, cursor = read(cursor)
            except NodeLostError as error:  # it may come back
                if not lost:
                    print(f"{error}; waiting for it", file=sys.stderr)
                lost = True
                continue
            lost = False
            _print(lines)


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print(visible(line))
    sys.stdout.flush()

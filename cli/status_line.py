"""StatusLine: a grey line on stderr below the text that is being written to the terminal; it is removed again."""

from __future__ import annotations

import sys

from rich.cells import set_cell_size

from cli.terminal import columns, moves_its_cursor
from cli.visible import visible

_MAKE_ROOM = "\x1bD\x1b[1A"
"""A line down, which scrolls at the bottom, and up again, in the same column."""

_BELOW = "\x1b7\x1b[1B\r\x1b[2K"
_BACK = "\x1b8"
_GREY, _RESET = "\x1b[90m", "\x1b[0m"


class StatusLine:
    """Shows one line at a time, on a terminal that moves its cursor."""

    def __init__(self) -> None:
        self._works = sys.stderr.isatty() and moves_its_cursor()
        self._shown = False

    def show(self, text: str) -> None:
        """Show a line in place of the last one; "" removes it."""
        if not self._works or (not text and not self._shown):
            return
        sys.stdout.flush()
        width = columns(sys.stderr) - 1
        line = visible(text)
        line = set_cell_size(line[: width + 1], min(width, len(line))).rstrip()
        room = "" if self._shown else _MAKE_ROOM
        sys.stderr.write(f"{room}{_BELOW}{_GREY}{line}{_RESET}{_BACK}")
        sys.stderr.flush()
        self._shown = bool(text)

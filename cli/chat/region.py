"""Region: the last lines on a terminal, updated in place: only changes are written, in one write.

Assumes that the cursor is at the start of the row below its lines and that nothing else writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import IO

from rich.cells import cell_len

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class Region:
    """Lines (with colour escapes, narrower than the terminal) that may still change."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out
        self._lines: list[str] = []
        self._hidden = False

    def update(self, lines: Sequence[str], width: int, height: int, keep: int = 0) -> None:
        """Replace the region's lines; the first `keep` of them then become final.

        Lines that have scrolled off a terminal of `height` rows cannot be changed.
        """
        old = self._lines
        first = 0
        while first < min(len(old), len(lines)) and old[first] == lines[first]:
            first += 1
        first = max(first, self._first_reachable(width, height))
        if first < max(len(old), len(lines)):
            rows_up = sum(_rows(line, width) for line in old[first:])
            written = [f"\x1b[{rows_up}A"] if rows_up else []
            written += [f"\r{line}\x1b[K\n" for line in lines[first:]]
            if rows_up > len(lines) - first:
                written.append("\x1b[J")
            self._out.write("".join(written))
            self._out.flush()
        self._lines = list(lines[keep:])

    def _first_reachable(self, width: int, height: int) -> int:
        rows = 0
        for index in range(len(self._lines) - 1, -1, -1):
            rows += _rows(self._lines[index], width)
            if rows > height - 1:
                return index + 1
        return 0


def is_blank(line: str) -> bool:
    """Whether a line shows nothing."""
    return not _ESCAPES.sub("", line).strip()


def _rows(line: str, width: int) -> int:
    """Return the rows of a line; more than one if the terminal became narrower and wrapped it."""
    return max(1, -(-cell_len(_ESCAPES.sub("", line)) // width))

"""Tables: headings over a thin line, text aligned left, numbers aligned right, a legend below.

A table too wide for the terminal drops whole columns, the least important first; no text is truncated.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

PIPE_COLUMNS = 160
"""Width of tables in pipes."""

WRAPPED_COLUMNS = 24
"""Minimum width of a wrapped column."""

_UNLIMITED = 10**6


class _TableConsole(Console):
    def on_broken_pipe(self) -> None:
        """Let the command end as it does for other output; rich would exit with 1."""
        raise BrokenPipeError


def table_console() -> Console:
    """Return the console for tables: stdout, as wide as the terminal, COLUMNS or PIPE_COLUMNS."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    return _TableConsole(markup=False, emoji=False, highlight=False, width=width)


class HeadedTable:
    """A table that fits its terminal. Columns other than `texts` hold numbers.

    `wrapped`: the column that may take several lines. `optional`: columns to drop if all their cells are empty or,
    the first of them first, if the table is too wide. `legend` explains columns.
    """

    def __init__(
        self,
        *columns: str,
        texts: Collection[str],
        wrapped: str = "",
        optional: Sequence[str] = (),
        legend: Mapping[str, str] | None = None,
    ) -> None:
        self._columns = columns
        self._texts = texts
        self._wrapped = wrapped
        self._optional = optional
        self._legend = legend or {}
        self._rows: list[tuple[dict[str, str | Text], str]] = []

    def add_row(self, *cells: str | Text, style: str = "") -> None:
        """Add a cell for each column."""
        self._rows.append((dict(zip(self._columns, cells, strict=True)), style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table with the columns that fit, and their legend."""
        shown = [c for c in self._columns if c not in self._optional or any(cells[c] for cells, _ in self._rows)]
        for column in self._optional:
            if self._needed(shown, console, options) <= options.max_width:
                break
            if column in shown:
                shown.remove(column)
        yield self._table(shown)
        if legend := " · ".join(f"{column}: {text}" for column, text in self._legend.items() if column in shown):
            yield Text(legend, style="bright_black")

    def _needed(self, shown: Sequence[str], console: Console, options: ConsoleOptions) -> int:
        """Return the width that a table needs."""
        unlimited = options.update(max_width=_UNLIMITED)

        def width(columns: Sequence[str]) -> int:
            return Measurement.get(console, unlimited, self._table(columns)).maximum

        wrapped = width([self._wrapped]) if self._wrapped in shown else 0
        return width(shown) - max(wrapped - WRAPPED_COLUMNS, 0)

    def _table(self, shown: Sequence[str]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bright_black")
        for column in shown:
            is_text = column in self._texts
            table.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text, overflow="fold")
        for cells, style in self._rows:
            table.add_row(*(cells[column] for column in shown), style=style)
        return table

"""The look of tables: headings over a thin line, texts to the left and numbers to the right."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection

from rich import box
from rich.console import Console
from rich.table import Table

PIPE_COLUMNS = 160
"""What is not read on a terminal is not cut to its width."""


def table_console() -> Console:
    """Return where tables are printed: standard output, as wide as the terminal or COLUMNS."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_COLUMNS
    return Console(markup=False, emoji=False, highlight=False, width=width)


def headed_table(*columns: str, texts: Collection[str]) -> Table:
    """Return an empty table; columns other than `texts` hold numbers. A text in the last column may be wrapped."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bright_black")
    for column in columns:
        is_text = column in texts
        wraps = is_text and column == columns[-1]
        table.add_column(column, justify="left" if is_text else "right", no_wrap=not wraps, overflow="ellipsis")
    return table

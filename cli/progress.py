"""Progress bars on stderr with amount, rate and time left. Only on a terminal; removed when done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

OnProgress = Callable[[int, int], None]
"""Called with (done, total)."""

PATIENCE_S = 0.5
"""A bar appears after this time."""

REFRESH_S = 0.1

BAR_COLUMNS = 20
"""A bar, its title and its figures then fit 60 columns."""


@contextmanager
def progress_bar(title: str, unit: Literal["bytes", "tokens"]) -> Iterator[OnProgress]:
    """Yield a callback of (done, total) that draws a bar on stderr, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    bar = _Bar(title, unit)
    try:
        yield bar.report
    finally:
        bar.close()


class _Bar:
    def __init__(self, title: str, unit: Literal["bytes", "tokens"]) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        count = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(),)
        console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=BAR_COLUMNS),
            *count,
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            auto_refresh=False,
        )
        self._task = self._progress.add_task(title, total=None)
        self._started = time.monotonic()
        self._drawn = 0.0
        self._shown = False

    def report(self, done: int, total: int) -> None:
        now = time.monotonic()
        self._progress.update(self._task, completed=done, total=total)
        if not self._shown and now - self._started >= PATIENCE_S and done < total:
            self._progress.start()
            self._shown = True
        if self._shown and (now - self._drawn >= REFRESH_S or done >= total):
            self._progress.refresh()
            self._drawn = now

    def close(self) -> None:
        if self._shown:
            self._progress.stop()

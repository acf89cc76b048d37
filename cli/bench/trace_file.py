"""TraceFile: a timeline as chrome://tracing and ui.perfetto.dev open it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cli.whole_file import write_whole
from mlx_moe.errors import InvalidRequestError

if TYPE_CHECKING:
    from cluster.timeline import Timeline


class TraceFile:
    """Where a trace is to go. Raises InvalidRequestError, before anything is measured, where it cannot."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise InvalidRequestError(f"no trace can be written to {path}: name a file in a directory of yours")

    def write(self, timeline: Timeline, *, emulated: bool = False) -> None:
        """Replace the file, or make it; it is never there half written. An emulated cluster's says that it is."""
        trace = timeline.to_chrome() | {"otherData": {"emulated": emulated}}
        write_whole(self._path, json.dumps(trace, allow_nan=False), replace=True)

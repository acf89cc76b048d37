"""TraceFile: writes a timeline in the format of chrome://tracing and ui.perfetto.dev."""

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
    """The file for a trace. Raises InvalidRequestError, before any measurement, if it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise InvalidRequestError(f"cannot write a trace to {path}: give a file in a writable directory")

    def write(self, timeline: Timeline, *, emulated: bool = False) -> None:
        """Write the file atomically; mark the trace of an emulated cluster as emulated."""
        trace = timeline.to_chrome() | {"otherData": {"emulated": emulated}}
        write_whole(self._path, json.dumps(trace, allow_nan=False), replace=True)

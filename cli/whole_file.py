"""Writes a file completely or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str, *, replace: bool) -> None:
    """Write a text file atomically; after an error the old file is unchanged.

    Raises:
        FileExistsError: `path` exists, and `replace` is False or it is not a file.
        OSError: the file cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:40]}-") as directory:
        written = Path(directory) / "written"
        written.write_text(text, encoding="utf-8", errors="replace")
        if path.exists() and not (replace and path.is_file()):
            raise FileExistsError(str(path))
        os.replace(written, path)

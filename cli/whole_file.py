"""WholeFile: a file that is written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, text: str, *, replace: bool) -> None:
    """Write a text file; a full disk leaves what was there before.

    Raises:
        FileExistsError: `path` is there already, and is no file or not to be replaced.
        OSError: it cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name[:40]}-") as directory:
        written = Path(directory) / "written"
        written.write_text(text, encoding="utf-8", errors="replace")
        if path.exists() and not (replace and path.is_file()):
            raise FileExistsError(str(path))
        os.replace(written, path)

"""Disk: a source that reads a model directory's whole files, as they were when their headers were checked."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from mlx_moe.checkpoint.regular_file import identity, open_regular
from mlx_moe.checkpoint.source import SourceError
from mlx_moe.checkpoint.tensor_file import TensorFile

MAX_READ_BYTES = 1 << 30
"""Most bytes of one read call: macOS refuses 2 GiB and more."""


class Disk:
    """The files of checked headers. Files are opened when they are first read, and stay open until `close`."""

    name = "disk"

    def __init__(self, headers: Mapping[Path, TensorFile]) -> None:
        self._headers = {path.name: header for path, header in headers.items() if header.is_whole}
        self._open_files: dict[str, BinaryIO] = {}
        self._opening = threading.Lock()
        self._closing = weakref.finalize(self, _close, self._open_files)

    def present(self, file: str, span: range) -> list[range]:
        """Return the part of a span that is within the file, if the file is here."""
        within = range(span.start, min(span.stop, self._headers[file].size)) if file in self._headers else range(0)
        return [within] if within else []

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        """See WeightSource."""
        fd, path = self._open(file), self._headers[file].path
        done = 0
        for span in ranges:
            read_fully(fd, path, span.start, memory[done : done + len(span)])
            done += len(span)

    def close(self) -> None:
        """Close all files. Without it they are closed when nobody refers to the source, so never under a reader."""
        self._closing()

    def _open(self, file: str) -> int:
        header = self._headers[file]
        with self._opening:
            if file not in self._open_files:
                opened = open_regular(header.path)
                if identity(opened) != header.identity:
                    opened.close()
                    raise SourceError(f"{header.path} changed while it was being loaded; load it again")
                self._open_files[file] = opened
            return self._open_files[file].fileno()


def _close(files: dict[str, BinaryIO]) -> None:
    for opened in files.values():
        opened.close()
    files.clear()


def read_fully(fd: int, path: Path, offset: int, memory: memoryview) -> None:
    """Fill memory with the bytes of an open file from `offset`. Raises SourceError."""
    done = 0
    while done < memory.nbytes:
        try:
            n = os.preadv(fd, [memory[done : done + MAX_READ_BYTES]], offset + done)
        except OSError as exc:
            raise SourceError(f"{path} cannot be read at byte {offset + done}: {exc.strerror}") from exc
        if n == 0:
            raise SourceError(f"{path} ends at byte {offset + done}: it was truncated while loading")
        done += n

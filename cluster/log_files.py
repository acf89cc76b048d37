"""Log files: the bounded files of a node's daemon, worker and gateway, and their last lines in order of time.

Each file is moved to `NAME.1` when it reaches LOG_BYTES, so that the logs of a node take at most 24 MiB. They never
contain prompts or answers.
"""

from __future__ import annotations

import heapq
import logging
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from pathlib import Path

from mlx_moe.errors import InvalidRequestError

DAEMON = "daemon.log"
WORKER = "worker.log"
GATEWAY = "gateway.log"
STARTS = ("up.log", "service.log")
"""What a start in the background or of the service wrote to standard error: why it failed. Without times."""

NAMES = (DAEMON, WORKER, GATEWAY)

FORMAT = "%(asctime)s %(name)s %(levelname)s %(message)s"
LOG_BYTES = 4 << 20

MAX_LINES = 2000
MAX_READ_BYTES = 256 << 10
"""Most bytes that one read takes from each file."""

MAX_LINE_CHARACTERS = 4000
TIME_CHARACTERS = 23

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")
_POSITION = re.compile(r"([a-z.]{1,20}):(\d{1,20}):(\d{1,15})")


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far each file has been read: its inode, and bytes from its start.

    Raises:
        InvalidRequestError: `parse` was given something else.
    """

    positions: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Read what `str` returned."""
        parts = [_POSITION.fullmatch(part) for part in text.split()]
        if len(parts) > len(NAMES) or not all(part and part[1] in NAMES for part in parts):
            raise InvalidRequestError(f"{text[:80]!r} is not a position in log files")
        return cls({part[1]: (int(part[2]), int(part[3])) for part in parts if part})

    def __str__(self) -> str:
        return " ".join(f"{name}:{inode}:{offset}" for name, (inode, offset) in self.positions.items())


class LogFile(RotatingFileHandler):
    """Writes the log of this process to a file.

    With `takes_stderr`, standard error is that file already, and follows it when it is moved.
    """

    def __init__(self, path: Path, *, takes_stderr: bool = False) -> None:
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=1)
        self.setFormatter(logging.Formatter(FORMAT))
        self._takes_stderr = takes_stderr

    def doRollover(self) -> None:  # noqa: N802
        """Move the file, and begin the next one."""
        super().doRollover()
        if self._takes_stderr and self.stream is not None:
            os.dup2(self.stream.fileno(), sys.stderr.fileno())


def bound(descriptor: int) -> None:
    """Empty a log file that is open for appending and has LOG_BYTES, such as that of the service's errors."""
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_size > LOG_BYTES:
        os.ftruncate(descriptor, 0)


def failed_start(directory: Path) -> list[str]:
    """Return why the last start in the background failed; nothing if the node has logged anything since."""
    files = [path for path in (directory / name for name in STARTS) if path.exists() and path.stat().st_size]
    if not files:
        return []
    newest, daemon = max(files, key=lambda path: path.stat().st_mtime), directory / DAEMON
    if daemon.exists() and daemon.stat().st_mtime > newest.stat().st_mtime:
        return []
    return newest.read_text(errors="replace")[-MAX_LINE_CHARACTERS:].splitlines()[-1:]


def last(directory: Path, n_lines: int) -> tuple[list[str], Cursor]:
    """Return the last lines of a node's log files, merged by time, and a cursor for the lines that follow."""
    texts, positions = [], {}
    for name in NAMES:
        older, newer = (_Chunk.of(directory / file, end=True) for file in (f"{name}.1", name))
        positions[name] = newer.inode, newer.end
        texts.append(older.text + newer.text)
    lines = merged(texts)
    return lines[max(0, len(lines) - min(n_lines, MAX_LINES)) :], Cursor(positions)


def following(directory: Path, cursor: Cursor) -> tuple[list[str], Cursor]:
    """Return the lines that were written after the cursor, at most MAX_READ_BYTES of each file, and a new cursor."""
    texts, positions = [], dict(cursor.positions)
    for name in NAMES:
        inode, offset = cursor.positions.get(name, (0, 0))
        chunk = _Chunk.of(directory / name, inode, offset)
        if chunk.inode != inode:  # it was moved: what it still has comes first
            moved = _Chunk.of(directory / f"{name}.1", inode, offset)
            if moved.inode == inode and moved.end > offset:
                chunk = moved
        texts.append(chunk.text)
        positions[name] = chunk.inode, chunk.end
    return merged(texts), Cursor(positions)


def merged(texts: Iterable[str]) -> list[str]:
    """Return the lines of several logs in order of time; lines without a time stay behind the one before them."""
    entries = heapq.merge(*(_entries(text) for text in texts), key=lambda entry: entry[0])
    return [line[:MAX_LINE_CHARACTERS] for _, lines in entries for line in lines]


def _entries(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each line with a time, together with the lines that belong to it; the times never go back."""
    entry: list[str] = []
    latest = ""
    for line in text.removesuffix("\n").split("\n") if text else ():
        if _TIME.match(line):
            if entry:
                yield latest, entry
            entry, latest = [], max(latest, line[:TIME_CHARACTERS])
        entry.append(line)
    if entry:
        yield latest, entry


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Whole lines of a file. `end` is the position after them; an inode of 0 means that there is no file."""

    text: str = ""
    inode: int = 0
    end: int = 0

    @classmethod
    def of(cls, path: Path, inode: int = 0, offset: int = 0, *, end: bool = False) -> _Chunk:
        """Read from `offset`, if the file still has this inode and is as long, else from its start.

        With `end` it is the file's end that is read.
        """
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if end:
                    offset = max(0, status.st_size - MAX_READ_BYTES)
                elif status.st_ino != inode or status.st_size < offset:
                    offset = 0
                file.seek(offset)
                data = file.read(MAX_READ_BYTES)
        except OSError:
            return cls()
        whole = data[: data.rfind(b"\n") + 1] or (data if len(data) == MAX_READ_BYTES else b"")
        if end and offset:  # it begins within a line
            begins = whole.find(b"\n") + 1
            return cls(whole[begins:].decode(errors="replace"), status.st_ino, offset + len(whole))
        return cls(whole.decode(errors="replace"), status.st_ino, offset + len(whole))

"""Share: a model directory with some of the bytes of its weight files, that reads them and adds further ones.

For each weight file the directory has the whole file, its header, or its header and a part (see `partial_file`). A part
is never taken for a whole file. One process writes at a time; others may read what was there when they opened it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from mlx_moe.checkpoint import durable_file, tensor_file
from mlx_moe.checkpoint.disk import Disk
from mlx_moe.checkpoint.origin import Origin
from mlx_moe.checkpoint.partial_file import RECORD_SUFFIX, PartialFile, remove_remains
from mlx_moe.checkpoint.source import SourceError, WeightSource
from mlx_moe.checkpoint.tensor_file import TensorFile
from mlx_moe.checkpoint.weight_files import WeightFiles
from mlx_moe.errors import CheckpointError

SYNC_BYTES = 256 << 20
SYNC_S = 5.0
"""What was written is recorded when it has so many bytes, or is so old when something is written: a kill loses less."""

LOCK_NAME = ".share.lock"


class Share:
    """A directory with weight files in part, as a source. Several threads may read and write at the same time."""

    name = "disk"

    def __init__(self, directory: Path, headers: Iterable[TensorFile] | None = None) -> None:
        """Open it for reading; the first write makes this process its only writer.

        Raises:
            CheckpointError: a header, or origin.json, is damaged.
        """
        self.directory = directory
        headers = _headers(directory) if headers is None else list(headers)
        origin = Origin.of(directory)
        digests = {name: file.sha256 for name, file in origin.files.items()}
        self._whole = {header.path: header for header in headers if header.is_whole}
        self._disk = Disk(self._whole)
        partial = [header for header in headers if not header.is_whole]
        self._parts = {header.path.name: PartialFile(header, digests.get(header.path.name, "")) for header in partial}
        self._lock_file = -1
        self._locking = threading.Lock()
        self._syncing = threading.Lock()
        self._counting = threading.Lock()
        self._unsynced_bytes, self._synced_at = 0, time.monotonic()

    def present(self, file: str, span: range) -> list[range]:
        """Return the parts of a span of a file that are here. Headers of files in part are not."""
        return self._parts[file].present(span) if file in self._parts else self._disk.present(file, span)

    def missing(self, file: str, span: range) -> list[range]:
        """Return the parts of a span of a file's data that are not here. Raises CheckpointError for unknown files."""
        if self._disk.present(file, span):
            return []
        return self._part(file).missing(span)

    @property
    def nbytes(self) -> int:
        """The size of all weight files, without the headers of those in part."""
        return sum(part.data_bytes for part in self._parts.values()) + sum(f.size for f in self._whole.values())

    @property
    def nbytes_present(self) -> int:
        """The bytes of the weight files that are here, without the headers of those in part."""
        return sum(part.present_bytes for part in self._parts.values()) + sum(f.size for f in self._whole.values())

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        """See WeightSource."""
        if file not in self._parts:
            self._disk.read_into(file, ranges, memory)
            return
        done = 0
        for span in ranges:
            if span and self.present(file, span) != [span]:
                raise SourceError(f"{self.directory / file}: bytes {span.start} to {span.stop} are not on this disk")
            self._parts[file].read_into(span.start, memory[done : done + len(span)])
            done += len(span)

    def write(self, file: str, offset: int, memory: memoryview) -> None:
        """Store bytes of a file; those that are here already are kept. A file that is complete gets its name.

        Raises:
            CheckpointError: another process is writing, the disk is full, or the file was completed with wrong bytes.
        """
        self.begin()
        if self._disk.present(file, range(1)):
            return
        part = self._part(file)
        written = part.write(offset, memory)
        if written and part.is_filled:
            part.sync()
            part.finish()
        with self._counting:
            self._unsynced_bytes += written
            is_due = self._unsynced_bytes >= SYNC_BYTES or time.monotonic() - self._synced_at >= SYNC_S
        if is_due and self._syncing.acquire(blocking=False):  # other threads go on while one waits for the disk
            try:
                self._sync()
            finally:
                self._syncing.release()

    def begin(self) -> None:
        """Become the only writer, and finish what an earlier one left. `write` does it where needed.

        Raises:
            CheckpointError: another process is writing; the message says which one.
        """
        with self._locking:
            if self._lock_file >= 0:
                return
            self._lock_file = _lock(self.directory)
            for path in self._whole:
                remove_remains(path)
            for part in self._parts.values():  # the earlier writer may have gone on since they were read
                part.reload()
            for part in self._parts.values():
                part.finish()

    def sync(self) -> None:
        """Wait until all that was written is on the disk and recorded. Raises CheckpointError if the disk fails."""
        with self._syncing:
            self._sync()

    def require_room(self, nbytes: int) -> None:
        """Raise CheckpointError unless the disk has room for so many further bytes."""
        free = durable_file.free_bytes(self.directory)
        if nbytes > free:
            raise CheckpointError(
                f"{self.directory}: {nbytes:,} bytes are needed, but the disk has {free:,} free; delete files there "
                f"(`moe-cluster rm MODEL` deletes a model), or use more nodes"
            )

    def close(self) -> None:
        """Record what was written, and close all files. Raises CheckpointError if the disk fails."""
        try:
            if self._lock_file >= 0:
                self.sync()
        finally:
            self._disk.close()
            for part in self._parts.values():
                part.close()
            with self._locking:
                if self._lock_file >= 0:
                    os.close(self._lock_file)
                    self._lock_file = -1

    def _part(self, file: str) -> PartialFile:
        if file not in self._parts:
            raise CheckpointError(f"{self.directory} has no header of {file}: pull the model again")
        return self._parts[file]

    def _sync(self) -> None:
        with self._counting:
            self._unsynced_bytes, self._synced_at = 0, time.monotonic()
        for part in self._parts.values():
            part.sync()


class Keeping:
    """A source that stores in a share what it reads from another source."""

    def __init__(self, share: Share, source: WeightSource) -> None:
        self._share, self._source = share, source

    @property
    def name(self) -> str:
        """The name of the source."""
        return self._source.name

    def present(self, file: str, span: range) -> list[range]:
        """Return what the source has."""
        return list(self._source.present(file, span))

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        """Read, and store what was read.

        Raises:
            SourceError: the source cannot deliver it.
            CheckpointError: it cannot be stored (see `Share.write`).
        """
        self._source.read_into(file, ranges, memory)
        done = 0
        for span in ranges:
            self._share.write(file, span.start, memory[done : done + len(span)])
            done += len(span)

    def close(self) -> None:
        """Close the source and the share."""
        try:
            self._source.close()
        finally:
            self._share.close()


def has_parts(directory: Path) -> bool:
    """Whether a directory has weight files in part."""
    return any(directory.glob(f"*.safetensors{RECORD_SUFFIX}"))


def require_no_writer(directory: Path) -> None:
    """Raise CheckpointError if a process writes a share's directory; the message says which one."""
    os.close(_lock(directory))


def _headers(directory: Path) -> list[TensorFile]:
    files = WeightFiles.of(directory)
    return [tensor_file.read(path) for path in (*files.own, *files.others)]


def _lock(directory: Path) -> int:
    """Return the locked file of the directory's writer, which has its process id for messages."""
    path = directory / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as exc:
        raise CheckpointError(f"{path} cannot be written: {exc.strerror}") from exc
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        with suppress(OSError):  # a full disk; only a message lacks the id then
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    except BlockingIOError as exc:
        writer = os.pread(descriptor, 20, 0).decode(errors="replace")
        os.close(descriptor)
        raise CheckpointError(
            f"{directory} is being written by process {writer}: wait until it has ended (`ps -p {writer}` shows it), "
            f"then repeat the command"
        ) from exc
    except OSError as exc:
        os.close(descriptor)
        raise CheckpointError(f"{path} cannot be locked: {exc.strerror}; it must be on a local disk") from exc
    return descriptor

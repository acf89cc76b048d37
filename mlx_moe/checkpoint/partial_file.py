"""PartialFile: a weight file of which some byte ranges are on this disk, with a record of these ranges.

Beside NAME.safetensors.header are NAME.safetensors.part, a sparse file of the full size with the data at their offsets,
and NAME.safetensors.ranges, the record. The record is replaced as a whole, and only after the data are on the disk.

Instead of the header, a part file begins with a mark, which no reader takes for a header, and an id, which the record
repeats: a record never counts for another file. When all data are on the disk, and their SHA-256 is right where it is
known, the header replaces the mark, and the file gets its name. A part file that begins with the header is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_moe.checkpoint import durable_file, json_file
from mlx_moe.checkpoint.byte_ranges import ByteRanges
from mlx_moe.checkpoint.disk import MAX_READ_BYTES, read_fully
from mlx_moe.checkpoint.regular_file import open_regular
from mlx_moe.checkpoint.source import SourceError
from mlx_moe.checkpoint.tensor_file import MAX_HEADER_BYTES, TensorFile, header_path
from mlx_moe.errors import CheckpointError

log = logging.getLogger(__name__)

PART_SUFFIX = ".part"
RECORD_SUFFIX = ".ranges"

_FORMAT = 1
_MARK = b"\xff" * 8
"""As the length of a header it is larger than any file."""

_ID_BYTES = 16
_BEGINNING_BYTES = len(_MARK) + _ID_BYTES
_HASH_CHUNK_BYTES = 4 << 20


class PartialFile:
    """A weight file in part. Several threads may read and write it; `write` and what follows need the share's lock."""

    def __init__(self, header: TensorFile, sha256: str = "") -> None:
        self.path = header.path
        self._sha256 = sha256
        self._header = json_file.read_bytes(header_path(header.path), 8 + MAX_HEADER_BYTES)
        self._data = range(len(self._header), header.size)
        self._lock = threading.RLock()  # of everything below
        self._syncing = threading.Lock()  # taken before `_lock`
        self._open: dict[int, int] = {}  # descriptors by the flags of open
        self._retired: list[int] = []  # descriptors from which other threads may still read
        self._closing = weakref.finalize(self, _close, self._open, self._retired)
        self._is_whole = False
        self._failure: CheckpointError | None = None
        self._beginning = b""  # the mark and the id of the part file that is in use
        self._synced = ByteRanges()
        self._pending = ByteRanges()  # written, but not synced
        self._present = ByteRanges()
        self._claimed = ByteRanges()  # present, or being written
        self._is_recorded = True
        self.reload()

    @property
    def data_bytes(self) -> int:
        """The size of the file without its header."""
        return len(self._data)

    @property
    def present_bytes(self) -> int:
        """The number of bytes of its data that are here."""
        with self._lock:
            return self._present.nbytes

    def reload(self) -> None:
        """Read the record again, and forget what is not in it."""
        with self._syncing, self._lock:
            self._synced = self._recorded()
            self._start_from_synced()

    def present(self, span: range) -> list[range]:
        """Return the parts of a span of bytes that are here."""
        with self._lock:
            return self._present.within(span)

    def missing(self, span: range) -> list[range]:
        """Return the parts of a span of data that are not here."""
        with self._lock:
            return self._present.gaps(range(max(span.start, self._data.start), min(span.stop, self._data.stop)))

    def read_into(self, offset: int, memory: memoryview) -> None:
        """Fill memory with present bytes. Raises SourceError if they cannot be read."""
        read_fully(self._descriptor(), self._part, offset, memory)

    def write(self, offset: int, memory: memoryview) -> int:
        """Write the missing parts of a span of data; return how many bytes these were. Recorded by the next `sync`.

        Raises:
            CheckpointError: it cannot be written, or an earlier sync failed.
        """
        span = range(offset, offset + memory.nbytes)
        if span.start < self._data.start or span.stop > self._data.stop:
            raise ValueError(f"{span} is outside the data of {self.path.name}, {self._data}")
        with self._lock:
            if self._failure:
                raise self._failure
            gaps = self._claimed.gaps(span)
            if not gaps:
                return 0
            if not self._beginning:
                self._create()
            descriptor = self._descriptor(os.O_RDWR)
            for gap in gaps:
                self._claimed.add(gap)
        try:
            with durable_file.written(self._part, sum(map(len, gaps))):
                for gap in gaps:
                    _write(descriptor, memory[gap.start - offset : gap.stop - offset], gap.start)
        except CheckpointError:
            with self._lock:
                for gap in gaps:
                    self._claimed.discard(gap)
            raise
        with self._lock:
            if self._failure:  # this sync may have covered our bytes, and lost them
                raise self._failure
            for gap in gaps:
                self._pending.add(gap)
                self._present.add(gap)
        return sum(map(len, gaps))

    @property
    def is_filled(self) -> bool:
        """Whether all data are here, but the file has not its name yet."""
        with self._lock:
            return not self._is_whole and not self._present.gaps(self._data)

    def sync(self) -> None:
        """Wait until all that was written is on the disk, and record it.

        Raises:
            CheckpointError: the disk is full or fails; what an earlier sync recorded is kept.
        """
        with self._syncing:
            with self._lock:
                if self._failure:
                    raise self._failure
                if not self._pending and self._is_recorded:
                    return
                pending, self._pending = self._pending, ByteRanges()
                descriptor = self._descriptor(os.O_RDWR)
            try:
                with durable_file.written(self._part, pending.nbytes):
                    durable_file.sync(descriptor)
            except CheckpointError as failure:
                # The system reports lost writes once: from now on, nobody knows which later ones reached the disk.
                with self._lock:
                    self._failure = failure
                    self._start_from_synced()
                raise
            with self._lock:
                for span in pending:
                    self._synced.add(span)
                self._is_recorded = False
            self._record()
            self._is_recorded = True

    def finish(self) -> bool:
        """Give the file its name if all data are on the disk; return whether it has it.

        Raises:
            CheckpointError: the SHA-256 is wrong, and all data were deleted; or the disk fails.
        """
        with self._syncing:
            if self._is_whole:
                return True
            with self._lock:
                if self._synced.gaps(self._data):
                    return False
            descriptor = self._descriptor(os.O_RDWR)
            if self._sha256 and (sha256 := self._hash()) != self._sha256:
                with self._lock:
                    self._remove_data()
                    self._synced = ByteRanges()
                    self._start_from_synced()
                raise CheckpointError(
                    f"{self.path}: the data have the SHA-256 {sha256}, but the hub says {self._sha256}: they were "
                    f"damaged on their way and were deleted; repeat the command to fetch them again"
                )
            with durable_file.written(self.path, len(self._header)):
                _write(descriptor, memoryview(self._header)[_BEGINNING_BYTES:], _BEGINNING_BYTES)
                durable_file.sync(descriptor)
                _write(descriptor, memoryview(self._header)[:_BEGINNING_BYTES], 0)
                durable_file.sync(descriptor)
                os.replace(self._part, self.path)
                durable_file.sync_path(self.path.parent)
            self._is_whole = True
            remove_remains(self.path)
            return True

    def close(self) -> None:
        """Close the files; no thread may be using them. Without it they are closed when nobody refers to this."""
        with self._lock:
            self._closing()

    @property
    def _part(self) -> Path:
        return self.path.with_name(self.path.name + PART_SUFFIX)

    def _start_from_synced(self) -> None:
        self._pending = ByteRanges()
        self._present, self._claimed = self._synced.copy(), self._synced.copy()

    def _recorded(self) -> ByteRanges:
        """Return the ranges in the record, nothing if it is not the record of the part file that is here."""
        self._beginning = b""
        self._retire()
        if not self._part.exists():
            # Another process may have completed it since its header was read.
            self._is_whole = self.path.exists() and self.path.stat().st_size == self._data.stop
            return ByteRanges([self._data] if self._is_whole else [])
        try:
            with open_regular(self._part) as file:
                size, beginning = os.fstat(file.fileno()).st_size, file.read(_BEGINNING_BYTES)
            if size == self._data.stop and beginning == self._header[:_BEGINNING_BYTES]:
                return ByteRanges([self._data])
            ranges = _ranges(json_file.read(record_path(self.path)), self._description(beginning), self._data)
        except CheckpointError as error:
            log.warning("event=part_unused path=%s reason=%s", self._part, error)
            return ByteRanges()
        if size != self._data.stop or not beginning.startswith(_MARK):
            log.warning("event=part_unused path=%s size=%d expected=%d", self._part, size, self._data.stop)
            return ByteRanges()
        self._beginning = beginning
        return ranges

    def _description(self, beginning: bytes) -> dict[str, Any]:
        """Return what a record says besides the ranges."""
        digest = hashlib.blake2b(self._header, digest_size=16).hexdigest()
        file = {"header": digest, "size": self._data.stop, "sha256": self._sha256}
        return {"format": _FORMAT, "id": beginning[len(_MARK) :].hex()} | file

    def _record(self) -> None:
        spans = [[span.start, span.stop] for span in self._synced]
        text = json.dumps(self._description(self._beginning) | {"present": spans})
        path = record_path(self.path)
        with durable_file.written(path, len(text)):
            durable_file.write(path, text.encode())

    def _descriptor(self, flags: int = os.O_RDONLY) -> int:
        """Return the open file: the one of the record, or, since then, the complete one."""
        with self._lock:
            if flags not in self._open:
                path = self._part if self._part.exists() else self.path
                try:
                    descriptor = os.open(path, flags | os.O_NOFOLLOW)
                except OSError as exc:
                    raise SourceError(f"{path} cannot be read: {exc.strerror}") from exc
                beginning = os.pread(descriptor, _BEGINNING_BYTES, 0)
                if beginning != self._header[:_BEGINNING_BYTES] and beginning != self._beginning:
                    os.close(descriptor)
                    raise SourceError(f"{path} was replaced while the model was being loaded; load it again")
                self._open[flags] = descriptor
            return self._open[flags]

    def _create(self) -> None:
        """Create an empty part file in place of one that has no record."""
        beginning = _MARK + os.urandom(_ID_BYTES)
        with durable_file.written(self._part, self.data_bytes):
            self._remove_data()
            descriptor = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
            self._open[os.O_RDWR] = descriptor
            os.ftruncate(descriptor, self._data.stop)
            _write(descriptor, memoryview(beginning), 0)
        self._beginning = beginning

    def _remove_data(self) -> None:
        """Delete the record, then the data. Threads may go on reading from the deleted file."""
        for path in (record_path(self.path), self._part):
            path.unlink(missing_ok=True)
        self._retire()
        self._beginning = b""

    def _retire(self) -> None:
        self._retired += self._open.values()
        self._open.clear()

    def _hash(self) -> str:
        """Return the SHA-256 of the file as it will be."""
        digest = hashlib.sha256(self._header)
        for start in range(self._data.start, self._data.stop, _HASH_CHUNK_BYTES):
            chunk = memoryview(bytearray(min(_HASH_CHUNK_BYTES, self._data.stop - start)))
            self.read_into(start, chunk)
            digest.update(chunk)
        return digest.hexdigest()


def _close(opened: dict[int, int], retired: list[int]) -> None:
    for descriptor in (*opened.values(), *retired):
        os.close(descriptor)
    opened.clear()
    retired.clear()


def record_path(path: Path) -> Path:
    """Return the path of the record of a weight file's ranges."""
    return path.with_name(path.name + RECORD_SUFFIX)


def remove_remains(path: Path) -> None:
    """Delete the header and the record of a file that is complete now."""
    for remains in (record_path(path), header_path(path)):
        with suppress(OSError):  # they are ignored beside the file
            remains.unlink(missing_ok=True)


def _ranges(record: dict[str, Any], description: dict[str, Any], data: range) -> ByteRanges:
    """Return the ranges of a record. Raises CheckpointError if it is damaged or describes another part file."""
    spans = record.pop("present", None)
    if record != description:
        raise CheckpointError("its record is that of another file")
    if not isinstance(spans, list):
        raise CheckpointError("its record is damaged")
    ranges = ByteRanges()
    for span in spans:
        match span:
            case [int(start), int(stop)] if data.start <= start < stop <= data.stop:
                ranges.add(range(start, stop))
            case _:
                raise CheckpointError("its record is damaged")
    return ranges


def _write(descriptor: int, memory: memoryview, offset: int) -> None:
    while memory:
        n = os.pwrite(descriptor, memory[:MAX_READ_BYTES], offset)
        memory, offset = memory[n:], offset + n

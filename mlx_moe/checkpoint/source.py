"""WeightSource: where the bytes of a checkpoint's weight files come from: this disk, another node, or the hub.

`Checkpoint` knows names, headers and ranges; a source only returns bytes of a file by offset. Files are called by their
names in the model's directory, offsets count from the beginning of the file, as if every file were whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mlx_moe.errors import CheckpointError


class SourceError(CheckpointError):
    """A source cannot deliver bytes that it should have; another source may."""


class WeightSource(Protocol):
    """A place that has some or all bytes of a checkpoint's weight files. Threads may read at the same time."""

    @property
    def name(self) -> str:
        """Its name for people: "disk", "mac-2", "huggingface.co"."""

    def present(self, file: str, span: range) -> Sequence[range]:
        """Return the parts of a span of bytes of a file that it has, in order, without overlaps."""

    def read_into(self, file: str, offset: int, memory: memoryview) -> None:
        """Fill memory with the bytes of a file from `offset`.

        Raises:
            SourceError: it cannot; the message says why. Memory may have been written in part.
        """

    def close(self) -> None:
        """Release files and connections."""


class Sources:
    """Sources in order of preference, as one. Each range comes from the first source that has it."""

    def __init__(self, sources: Sequence[WeightSource]) -> None:
        self._sources = tuple(sources)

    @property
    def name(self) -> str:
        """The names of all."""
        return ", ".join(source.name for source in self._sources)

    def present(self, file: str, span: range) -> list[range]:
        """Return the parts of a span that at least one source has, joined where they touch."""
        joined: list[range] = []
        parts = (part for source in self._sources for part in source.present(file, span))
        for part in sorted(parts, key=lambda r: r.start):
            if joined and part.start <= joined[-1].stop:
                joined[-1] = range(joined[-1].start, max(joined[-1].stop, part.stop))
            else:
                joined.append(part)
        return joined

    def read_into(self, file: str, offset: int, memory: memoryview) -> None:
        """Fill memory, each part from the first source that has it and can deliver it.

        Raises:
            SourceError: no source can; the message is that of the last one that failed.
        """
        start, end = offset, offset + memory.nbytes
        while start < end:
            start += self._read_next(file, start, memory[start - offset :])

    def close(self) -> None:
        """Close all."""
        for source in self._sources:
            source.close()

    def _read_next(self, file: str, start: int, memory: memoryview) -> int:
        """Read the first part of memory from one source; return its length."""
        error = SourceError(f"{file} is not complete: byte {start} is not on this machine, and no source has it")
        end = start + memory.nbytes
        for source in self._sources:
            parts = source.present(file, range(start, end))
            if not parts or parts[0].start != start:
                end = min(end, parts[0].start) if parts else end  # a preferred source has what follows
                continue
            nbytes = min(end, parts[0].stop) - start
            try:
                source.read_into(file, start, memory[:nbytes])
            except SourceError as exc:
                error = exc
            else:
                return nbytes
        raise error

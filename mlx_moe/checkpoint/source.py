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

    code = "source"


class WeightSource(Protocol):
    """A place that has some or all bytes of a checkpoint's weight files. Threads may read at the same time."""

    @property
    def name(self) -> str:
        """Its name for people: "disk", "mac-2", "huggingface.co"."""

    def present(self, file: str, span: range) -> Sequence[range]:
        """Return the parts of a span of bytes of a file that it has, in order, without overlaps."""

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        """Fill memory with ranges of bytes of a file, one after the other. They have the size of the memory.

        Several ranges in one call, such as the scales of many experts, cost one round trip.

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

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        """Fill memory, each range from the first source that has it and can deliver it.

        Raises:
            SourceError: no source can; the message is that of the last one that failed.
        """
        _read(self._sources, file, ranges, memory, None)

    def close(self) -> None:
        """Close all."""
        for source in self._sources:
            source.close()


def _read(
    sources: Sequence[WeightSource],
    file: str,
    ranges: Sequence[range],
    memory: memoryview,
    error: SourceError | None,
) -> None:
    """Read from the first source that has anything of the ranges; `error` is that of a source before them."""
    source, parts = next(((s, p) for s in sources if any(p := [s.present(file, r) for r in ranges])), (None, []))
    if source is None:
        raise error or SourceError(
            f"{file} is not complete: byte {ranges[0].start} is not on this machine, and no source has it"
        )
    if all(part == [span] for part, span in zip(parts, ranges, strict=True)):
        try:
            source.read_into(file, ranges, memory)
        except SourceError as exc:
            _read(sources[sources.index(source) + 1 :], file, ranges, memory, exc)
        return
    done = 0
    for span, present in zip(ranges, parts, strict=True):
        for half in _halves(span, present):
            _read(sources, file, [half], memory[done : done + len(half)], error)
            done += len(half)


def _halves(span: range, present: Sequence[range]) -> list[range]:
    """Return a span, cut where the first of the present parts within it begins or ends."""
    border = next((at for part in present for at in (part.start, part.stop) if span.start < at < span.stop), None)
    return [span] if border is None else [range(span.start, border), range(border, span.stop)]

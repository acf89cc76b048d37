"""ByteRanges: a set of bytes of a file, as sorted ranges that neither overlap nor touch."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from operator import attrgetter

_START, _STOP = attrgetter("start"), attrgetter("stop")


class ByteRanges:
    """Bytes by their offsets. Changing it is not thread-safe."""

    def __init__(self, spans: Iterable[range] = ()) -> None:
        self._ranges: list[range] = []
        for span in spans:
            self.add(span)

    def __iter__(self) -> Iterator[range]:
        """Iterate over the ranges, in order."""
        return iter(self._ranges)

    def __bool__(self) -> bool:
        """Whether there are any bytes."""
        return bool(self._ranges)

    @property
    def nbytes(self) -> int:
        """The number of bytes."""
        return sum(map(len, self._ranges))

    def copy(self) -> ByteRanges:
        """Return an independent copy."""
        copied = ByteRanges()
        copied._ranges = list(self._ranges)
        return copied

    def add(self, span: range) -> None:
        """Add the bytes of a span, joined with ranges that it touches."""
        if span:
            touched = slice(
                bisect_left(self._ranges, span.start, key=_STOP), bisect_right(self._ranges, span.stop, key=_START)
            )
            joined = [span, *self._ranges[touched]]
            self._ranges[touched] = [range(min(r.start for r in joined), max(r.stop for r in joined))]

    def discard(self, span: range) -> None:
        """Remove the bytes of a span."""
        overlapping = self._overlapping(span)
        kept = [
            part
            for r in self._ranges[overlapping]
            for part in (range(r.start, span.start), range(span.stop, r.stop))
            if part
        ]
        self._ranges[overlapping] = kept

    def bridge(self, max_gap: int, max_bytes: int) -> None:
        """Add gaps between ranges, the smallest first: each of at most `max_gap` bytes, together `max_bytes`."""
        gaps = sorted((range(one.stop, other.start) for one, other in pairwise(self._ranges)), key=len)
        for gap in gaps:
            max_bytes -= len(gap)
            if len(gap) > max_gap or max_bytes < 0:
                return
            self.add(gap)

    def within(self, span: range) -> list[range]:
        """Return the parts of a span that are in the set, in order."""
        found = self._ranges[self._overlapping(span)]
        return [range(max(r.start, span.start), min(r.stop, span.stop)) for r in found]

    def gaps(self, span: range) -> list[range]:
        """Return the parts of a span that are not in the set, in order."""
        parts = self.within(span)
        starts = [span.start, *(part.stop for part in parts)]
        stops = [*(part.start for part in parts), span.stop]
        return [gap for gap in map(range, starts, stops) if gap]

    def _overlapping(self, span: range) -> slice:
        """Return which ranges have bytes of a span."""
        if not span:
            return slice(0, 0)
        return slice(
            bisect_right(self._ranges, span.start, key=_STOP), bisect_left(self._ranges, span.stop, key=_START)
        )

"""Sources: each byte comes from the first source that has it and can deliver it."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.checkpoint.source import SourceError, Sources

FILE = "model.safetensors"
DATA = bytes(range(64))


class Memory:
    """A source that has some ranges of DATA, each byte with its own mark added; `fails` makes it fail after a part."""

    def __init__(self, mark: int, *parts: range, fails: bool = False) -> None:
        self.name = str(mark)
        self.closed = False
        self.calls = 0
        self._mark = mark
        self._parts = parts
        self._fails = fails

    def present(self, file: str, span: range) -> list[range]:
        assert file == FILE
        cut = (range(max(p.start, span.start), min(p.stop, span.stop)) for p in self._parts)
        return [part for part in cut if part]

    def read_into(self, file: str, ranges: Sequence[range], memory: memoryview) -> None:
        assert all(self.present(file, span) == [span] for span in ranges)
        self.calls += 1
        data = bytes(DATA[i] + self._mark for span in ranges for i in span)
        memory[: len(data) // 2 if self._fails else len(data)] = data[: len(data) // 2 if self._fails else None]
        if self._fails:
            raise SourceError(f"{self.name} is broken")

    def close(self) -> None:
        self.closed = True


def read(sources: Sources, *ranges: range) -> bytes:
    data = bytearray(sum(map(len, ranges)))
    sources.read_into(FILE, ranges, memoryview(data))
    return bytes(data)


def test_the_first_source_that_has_a_range_delivers_it() -> None:
    disk, hub = Memory(100, range(10, 20)), Memory(0, range(64))
    assert read(Sources([disk, hub]), range(8, 22)) == bytes([8, 9, *range(110, 120), 20, 21])


def test_many_ranges_that_one_source_has_are_one_call() -> None:
    source = Memory(0, range(64))
    assert read(Sources([source]), range(3), range(60, 64)) == bytes([0, 1, 2, 60, 61, 62, 63])
    assert source.calls == 1


def test_a_source_that_fails_is_followed_by_the_next() -> None:
    assert read(Sources([Memory(100, range(64), fails=True), Memory(0, range(64))]), range(5, 9)) == DATA[5:9]


def test_the_error_of_the_last_source_is_raised() -> None:
    with pytest.raises(SourceError, match="2 is broken"):
        read(Sources([Memory(1, range(64), fails=True), Memory(2, range(64), fails=True)]), range(4))


def test_a_byte_that_nobody_has_is_named() -> None:
    with pytest.raises(SourceError, match=r"model\.safetensors is not complete: byte 7 is not on this machine"):
        read(Sources([Memory(0, range(7)), Memory(0, range(20, 64))]), range(2, 30))


def test_closing_closes_all() -> None:
    sources = [Memory(0), Memory(0)]
    Sources(sources).close()
    assert all(source.closed for source in sources)


spans = st.tuples(st.integers(0, 63), st.integers(1, 64)).map(lambda t: range(min(t), max(t)))


@given(st.lists(st.lists(spans, max_size=3), max_size=3), st.lists(spans.filter(bool), min_size=1, max_size=3))
def test_whatever_is_present_is_read_right(held: list[list[range]], wanted: list[range]) -> None:
    sources = Sources([Memory(0, *parts) for parts in map(disjoint, held)])
    is_there = all(sources.present(FILE, span) == [span] for span in wanted)
    if is_there:
        assert read(sources, *wanted) == b"".join(DATA[span.start : span.stop] for span in wanted)
    else:
        with pytest.raises(SourceError):
            read(sources, *wanted)


def disjoint(parts: list[range]) -> list[range]:
    taken: list[range] = []
    for part in sorted(parts, key=lambda r: r.start):
        if not taken or part.start > taken[-1].stop:
            taken.append(part)
    return taken

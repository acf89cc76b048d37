"""Sets of bytes: equal to sets of integers, whatever is added and removed."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.checkpoint.byte_ranges import ByteRanges

SPANS = st.builds(range, st.integers(0, 30), st.integers(0, 30))


@given(st.lists(st.tuples(st.booleans(), SPANS)), SPANS)
def test_ranges_are_the_set_of_their_bytes(changes: list[tuple[bool, range]], span: range) -> None:
    ranges, expected = ByteRanges(), set[int]()
    for adds, changed in changes:
        if adds:
            ranges.add(changed)
            expected |= set(changed)
        else:
            ranges.discard(changed)
            expected -= set(changed)
    found = list(ranges)
    assert {byte for r in found for byte in r} == expected
    assert ranges.nbytes == len(expected)
    assert all(one.stop < other.start for one, other in pairwise(found))
    assert {byte for r in ranges.within(span) for byte in r} == expected & set(span)
    assert {byte for r in ranges.gaps(span) for byte in r} == set(span) - expected
    assert all(ranges.gaps(span))


def test_a_copy_is_independent() -> None:
    ranges = ByteRanges([range(2, 4)])
    copied = ranges.copy()
    ranges.add(range(4, 5))
    assert list(copied) == [range(2, 4)]

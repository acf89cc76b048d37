"""Chunks: one length for a prompt, by the number of its new positions and a rule."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.decoding.chunking import DEFAULT_RULE, LONGEST_ALONE, ChunkRule, chunk_start, cut
from mlx_moe.errors import InvalidRequestError

positions = st.integers(1, 200_000)
powers = st.integers(0, 12).map(lambda exponent: 2**exponent)


@st.composite
def rules(draw: st.DrawFn) -> ChunkRule:
    shortest, longest = sorted((draw(powers), draw(powers)))
    return ChunkRule(draw(st.integers(1, 32)), shortest, longest)


@pytest.mark.parametrize(
    ("new_positions", "length"),
    [(1, 32), (362, 32), (363, 64), (724, 64), (725, 128), (1448, 128), (1449, 256), (2896, 256), (2897, 512)],
)
def test_by_default_the_length_doubles_with_the_positions_to_run(new_positions: int, length: int) -> None:
    assert DEFAULT_RULE.length(new_positions) == length


@given(rules(), positions)
def test_the_length_is_the_power_of_two_that_gives_nearest_to_the_wanted_chunks(
    rule: ChunkRule, new_positions: int
) -> None:
    length = rule.length(new_positions)
    assert rule.shortest <= length <= rule.longest
    assert length & (length - 1) == 0
    assert length == rule.shortest or new_positions / length > rule.wanted / 2**0.5
    assert length == rule.longest or new_positions / length < rule.wanted * 2**0.5 + 1e-9


@given(st.integers(1, 5000), positions)
def test_a_fixed_rule_has_one_length(length: int, new_positions: int) -> None:
    rule = ChunkRule.fixed(length)
    assert rule.length(new_positions) == length == rule.fixed_length


@given(st.integers(0, 20_000), st.integers(0, 20_000), st.integers(1, 5000))
def test_chunks_end_at_multiples_of_their_length_and_at_the_end(start: int, count: int, length: int) -> None:
    ends = list(cut(start, start + count, length))
    assert all(end % length == 0 for end in ends[:-1])
    assert ends[-1:] == [start + count] * (count > 0)
    for a, b in itertools.pairwise([start, *ends]):
        assert a < b
        assert chunk_start(a, length) == chunk_start(b - 1, length)


@pytest.mark.parametrize(
    ("room", "longest"), [(0, 512), (1000 * 1023, 512), (1000 * 1024, 1024), (1000 * 2048, 2048), (1 << 60, 2048)]
)
def test_alone_a_chunk_is_as_long_as_memory_allows(room: int, longest: int) -> None:
    rule = ChunkRule.alone(position_bytes=1000, room_bytes=room)
    assert rule.longest == longest
    assert [rule.length(n) for n in (1, 128, 512)] == [32, 128, 512]
    assert rule.length(LONGEST_ALONE) == longest


@pytest.mark.parametrize("fields", [(0, 32, 512), (8, 0, 512), (8, 64, 32), (8, 32, 1 << 20)])
def test_a_rule_out_of_range_is_refused(fields: tuple[int, int, int]) -> None:
    with pytest.raises(InvalidRequestError, match="chunks: "):
        ChunkRule(*fields)


@pytest.mark.parametrize("length", [-1, 0, 1 << 20])
def test_a_fixed_length_out_of_range_is_refused(length: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"must be 1 to 65536, got {length}"):
        ChunkRule.fixed(length)

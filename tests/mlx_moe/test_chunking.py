"""Chunk boundaries: one length for a prompt, by the number of its new positions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.chunking import LONGEST, SHORTEST, chunk_end, chunk_length, chunk_start

lengths = st.sampled_from([32, 64, 128, 256, 512])


@pytest.mark.parametrize(
    ("new_positions", "length"),
    [(1, 32), (362, 32), (363, 64), (724, 64), (725, 128), (1448, 128), (1449, 256), (2896, 256), (2897, 512)],
)
def test_the_length_doubles_with_the_positions_to_run(new_positions: int, length: int) -> None:
    assert chunk_length(new_positions) == length


@given(st.integers(1, 200_000))
def test_the_length_is_the_power_of_two_that_gives_nearest_to_eight_chunks(new_positions: int) -> None:
    length = chunk_length(new_positions)
    assert SHORTEST <= length <= LONGEST
    assert length & (length - 1) == 0
    assert length == SHORTEST or new_positions / length > 8 / 2**0.5
    assert length == LONGEST or new_positions / length < 8 * 2**0.5


@given(st.integers(0, 200_000), lengths)
def test_every_position_lies_in_one_chunk_that_all_its_positions_agree_on(position: int, length: int) -> None:
    start, end = chunk_start(position, length), chunk_end(position, length)
    assert start <= position < end == start + length
    assert {(chunk_start(p, length), chunk_end(p, length)) for p in range(start, end)} == {(start, end)}

"""Chunk boundaries: by position alone, without gap or overlap."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.chunking import chunk_end, chunk_start

positions = st.integers(0, 200_000)


@pytest.mark.parametrize(
    ("position", "end"),
    [(0, 32), (31, 32), (32, 64), (255, 256), (256, 384), (1023, 1024), (4095, 4096), (4096, 4608)],
)
def test_a_chunk_ends_at_the_next_multiple_of_the_size_valid_there(position: int, end: int) -> None:
    assert chunk_end(position) == end


@given(positions)
def test_every_position_lies_in_one_chunk_that_all_its_positions_agree_on(position: int) -> None:
    start, end = chunk_start(position), chunk_end(position)
    assert start <= position < end
    assert {(chunk_start(p), chunk_end(p)) for p in range(start, end)} == {(start, end)}
    assert start == 0 or chunk_end(start - 1) == start


def test_a_prompt_of_256_positions_fills_a_pipeline_of_two_stages() -> None:
    assert len({chunk_start(position) for position in range(256)}) >= 7

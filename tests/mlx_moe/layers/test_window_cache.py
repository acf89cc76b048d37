"""WindowCache: what a frame sees, how far back it rewinds, and how much memory it takes."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_moe.errors import FrameError
from mlx_moe.layers import cache_costs
from mlx_moe.layers.cache_costs import GROWTH, CacheCosts, window_rows
from mlx_moe.layers.window_cache import WindowCache

WINDOW = 24


@pytest.fixture(scope="module", autouse=True)
def short_reach() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_costs, "REACH", GROWTH)
        yield


def rows(values: list[int]) -> mx.array:
    return mx.broadcast_to(mx.array(values, dtype=mx.float32)[None, :, None], (2, len(values), 3))


def seen(cache: WindowCache, values: list[int]) -> list[int]:
    (kept,) = cache.append(rows(values))
    found: list[int] = kept[1, :, 2].tolist()
    return found


def filled(positions: int, step: int = 1) -> WindowCache:
    cache = WindowCache(WINDOW)
    for first in range(0, positions, step):
        cache.append(rows(list(range(first, min(first + step, positions)))))
    return cache


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("append"), st.integers(1, 700)),
            st.tuples(st.just("rewind"), st.integers(0, 400)),
            st.tuples(st.just("fork"), st.integers(0, 400)),
        ),
        max_size=14,
    )
)
def test_a_frame_sees_its_window_whatever_was_done_before(steps: list[tuple[str, int]]) -> None:
    cache, history, value = WindowCache(WINDOW), list[int](), 0
    for what, n in steps:
        position = max(0, len(history) - n)
        if what == "append":
            new = list(range(value, value + n))
            value += n
            assert seen(cache, new) == [*history[max(0, len(history) - WINDOW + 1) :], *new]
            history += new
        elif what == "rewind":
            reached = cache.rewind(position)
            assert reached in (0, position)
            del history[reached:]
        else:
            source, cache = cache, cache.fork(position)
            assert source.length == len(history)
            assert cache.length in (0, position)
            source.append(rows([-1]))
            del history[cache.length :]
        assert cache.length == len(history)


@pytest.mark.parametrize("back", [1, WINDOW, GROWTH])
def test_it_rewinds_as_far_as_is_promised(back: int) -> None:
    cache = filled(2000)
    assert cache.rewind(2000 - back) == 2000 - back
    assert seen(cache, [7]) == [*range(2000 - back - WINDOW + 1, 2000 - back), 7]


def test_a_rewind_too_far_back_keeps_nothing_and_begins_again() -> None:
    cache = filled(2000)
    assert cache.rewind(500) == 0
    assert (cache.nbytes, cache.length) == (0, 0)
    assert seen(cache, [1, 2]) == [1, 2]


def test_the_last_frame_can_always_be_taken_back() -> None:
    cache = filled(2000)
    cache.append(rows(list(range(2000, 5000))))
    assert cache.rewind(2000) == 2000
    assert seen(cache, [7]) == [*range(2000 - WINDOW + 1, 2000), 7]


def test_rewinding_past_what_is_kept_is_an_error_with_both_numbers() -> None:
    with pytest.raises(FrameError, match="position 4 but only 3"):
        filled(3).rewind(4)


@pytest.mark.parametrize("positions", [1, 200, GROWTH, 1000, 3000])
@pytest.mark.parametrize("step", [1, 100])
def test_its_memory_is_bounded_by_what_is_planned(positions: int, step: int) -> None:
    costs = CacheCosts(windows=((window_rows(WINDOW), 2 * 3 * 4),))
    in_steps = -(-positions // GROWTH) * GROWTH
    cache = filled(positions, step)
    assert cache.nbytes <= costs.nbytes(in_steps)
    assert cache.nbytes == costs.nbytes(in_steps) or positions > window_rows(WINDOW)


def test_costs_add_windows_of_one_length_and_keep_others_apart() -> None:
    total = CacheCosts(1, 2, ((512, 10),)) + CacheCosts(3, 4, ((512, 20), (256, 5)))
    assert total == CacheCosts(4, 6, ((256, 5), (512, 30)))
    assert total.nbytes(300) == 4 + 300 * 6 + 256 * 5 + 300 * 30
    assert total.full_bytes_per_position == 41


def test_windows_that_a_context_overflows_are_a_fixed_part() -> None:
    costs = CacheCosts(1, 2, ((256, 5), (512, 30)))
    assert costs.within(256) == costs
    assert costs.within(512) == CacheCosts(1 + 256 * 5, 2, ((512, 30),))
    assert costs.within(10_000).nbytes(10_000) == costs.nbytes(10_000)

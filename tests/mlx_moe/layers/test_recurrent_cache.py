"""RecurrentCache: whatever is folded and rewound, the state is the one of a plain run, within bounded memory."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.errors import FrameError
from mlx_moe.layers.cache_costs import INPUTS_KEPT, STATES_KEPT, recurrent
from mlx_moe.layers.recurrent_cache import STRIDE, Arrays, RecurrentCache

MODULUS = 2_147_483_629

Call = tuple[int, int]
"""Positions of a call, and what they are."""


def fold(state: Arrays, inputs: Arrays) -> Arrays:
    """Fold a position in: a hash of all before it."""
    return ((state[0] * 31 + inputs[0] + 7) % MODULUS,)


def new_cache() -> RecurrentCache:
    return RecurrentCache((mx.array(0, dtype=mx.int64),), fold)


def run(cache: RecurrentCache, call: Call) -> None:
    """Fold a call's positions to what depends on their number, as the bits of a layer do."""
    n_new, content = call
    inputs = (mx.array(content * 1000 + n_new, dtype=mx.int64),)
    cache.append(n_new, inputs, fold(cache.state, inputs))


def value(cache: RecurrentCache) -> int:
    return int(cache.state[0].item())


calls = st.tuples(st.one_of(st.just(1), st.integers(1, 40)), st.integers(0, 3))
actions = st.lists(st.one_of(calls, st.integers(0, 60), st.just("fork")), max_size=60)


@given(actions)
def test_any_state_is_that_of_a_plain_run_of_the_calls_that_are_left(taken: list[Call | int | str]) -> None:
    cache, left = new_cache(), list[Call]()
    for action in taken:
        if isinstance(action, tuple):
            run(cache, action)
            left.append(action)
        elif action == "fork":
            cache = cache.fork(cache.length)
        else:
            wanted = max(0, cache.length - int(action))
            reached = cache.rewind(wanted)
            assert reached == cache.length <= wanted
            left = until(left, reached)
        plain = new_cache()
        for call in left:
            run(plain, call)
        assert (cache.length, value(cache)) == (plain.length, value(plain))
        assert cache.nbytes <= recurrent(8, 8).fixed_bytes


def until(left: list[Call], position: int) -> list[Call]:
    """Return the calls up to a position, at which one of them must end."""
    end, kept = 0, list[Call]()
    for call in left:
        if end == position:
            break
        end += call[0]
        kept.append(call)
    assert end == position
    return kept


@given(st.lists(calls, min_size=1, max_size=60))
def test_the_newest_call_can_always_be_undone(taken: list[Call]) -> None:
    cache = new_cache()
    for call in taken:
        start = cache.length
        run(cache, call)
        assert cache.fork(start).length == start


@given(st.lists(st.integers(2, 300), max_size=12), st.integers(0, 100), st.integers(0, INPUTS_KEPT - STRIDE))
def test_drafts_are_taken_back_one_by_one(prompts: list[int], n_single: int, back: int) -> None:
    cache = new_cache()
    for n_new in prompts:
        run(cache, (n_new, 0))
    for _ in range(n_single):
        run(cache, (1, 0))
    position = cache.length - min(back, n_single)
    assert cache.rewind(position) == position


def test_of_a_long_conversation_some_turns_can_still_be_undone() -> None:
    cache = new_cache()
    turns = []
    for _ in range(12):
        turns.append(cache.length)
        run(cache, (300, 0))
        for _ in range(200):
            run(cache, (1, 1))
    reached = [cache.fork(turn).length for turn in turns]
    assert reached[-2:] == turns[-2:]
    assert 0 < reached[-4] <= turns[-4]
    assert len(cache.arrays) == STATES_KEPT + INPUTS_KEPT


def test_a_fork_and_its_source_do_not_see_each_other() -> None:
    cache = new_cache()
    run(cache, (5, 0))
    run(cache, (1, 0))
    fork = cache.fork(5)
    run(fork, (1, 1))
    run(cache, (1, 2))
    assert (fork.length, cache.length) == (6, 7)
    assert value(fork) != value(cache)


def test_a_rewind_beyond_what_is_kept_is_an_error_with_both_numbers() -> None:
    cache = new_cache()
    run(cache, (5, 0))
    with pytest.raises(FrameError, match="position 6 but only 5 "):
        cache.rewind(6)

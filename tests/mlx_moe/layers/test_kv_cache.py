"""KVCache: growth, views, and the rewind rule."""

import mlx.core as mx
import pytest

from mlx_moe.errors import FrameError
from mlx_moe.layers.cache_costs import GROWTH
from mlx_moe.layers.kv_cache import KVCache


def numbered(first: int, count: int) -> mx.array:
    return mx.broadcast_to(mx.arange(first, first + count, dtype=mx.float32)[:, None], (count, 3))


def test_append_returns_all_positions_in_order() -> None:
    cache = KVCache()
    kept = cache.append(numbered(0, 5))[0]
    assert kept.shape == (5, 3)
    kept = cache.append(numbered(5, 2))[0]
    assert kept[:, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("step", [1, 7, GROWTH - 1, GROWTH, GROWTH + 1])
def test_growth_over_the_buffer_keeps_what_was_there(step: int) -> None:
    cache = KVCache()
    for first in range(0, 3 * GROWTH, step):
        kept = cache.append(numbered(first, step))[0]
    assert kept[:, 0].tolist() == list(range(kept.shape[0]))


def test_a_rewound_cache_overwrites_from_the_position_it_was_given() -> None:
    cache = KVCache()
    cache.append(numbered(0, 6))
    assert cache.rewind(2) == 2
    assert cache.append(numbered(100, 2))[0][:, 0].tolist() == [0, 1, 100, 101]


def test_rewinding_past_what_is_kept_is_an_error_with_both_numbers() -> None:
    cache = KVCache()
    cache.append(numbered(0, 3))
    with pytest.raises(FrameError, match="position 4 but only 3"):
        cache.rewind(4)


def test_memory_grows_in_steps_and_not_with_every_position() -> None:
    cache = KVCache()
    cache.append(numbered(0, 1))
    before = cache.nbytes
    for position in range(1, GROWTH):
        cache.append(numbered(position, 1))
    assert cache.nbytes == before


def test_a_fork_and_its_source_go_on_without_each_other() -> None:
    source = KVCache()
    source.append(numbered(0, GROWTH))
    fork = source.fork(3)
    assert source.append(numbered(GROWTH, 1))[0][:, 0].tolist() == list(range(GROWTH + 1))
    assert fork.append(numbered(100, 2))[0][:, 0].tolist() == [0, 1, 2, 100, 101]
    source.rewind(1)
    source.append(numbered(200, 2))
    assert fork.append(numbered(102, 1))[0][:, 0].tolist() == [0, 1, 2, 100, 101, 102]


def test_a_fork_takes_no_memory_until_it_is_written() -> None:
    source = KVCache()
    source.append(mx.zeros((4 * GROWTH, 1024)))
    mx.eval(source.arrays)
    before = mx.get_active_memory()
    fork = source.fork(2 * GROWTH)
    mx.eval(fork.arrays)
    assert mx.get_active_memory() == before

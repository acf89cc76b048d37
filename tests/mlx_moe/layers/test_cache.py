"""rewind_all: caches that reach different positions end at one."""

from __future__ import annotations

from dataclasses import dataclass, field

import mlx.core as mx
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.layers.cache import rewind_all


@dataclass
class Stops:
    """A cache that rewinds only to some positions."""

    length: int
    stops: frozenset[int]
    nbytes: int = 0
    arrays: list[mx.array] = field(default_factory=list)

    def rewind(self, position: int) -> int:
        assert position <= self.length
        if position < self.length:
            self.length = max((stop for stop in self.stops if stop <= position), default=0)
        return self.length

    def fork(self, positions: int) -> Stops:
        fork = Stops(self.length, self.stops)
        fork.rewind(positions)
        return fork


@given(st.lists(st.frozensets(st.integers(0, 20)), max_size=5), st.integers(0, 20), st.integers(0, 20))
def test_caches_end_together_at_the_nearest_position_that_all_reach(
    stops: list[frozenset[int]], length: int, position: int
) -> None:
    position = min(position, length)
    caches = [Stops(length, frozenset({0, length}) | reach) for reach in stops]
    shared = frozenset(range(length + 1)).intersection(*(cache.stops for cache in caches))
    wanted = max(stop for stop in shared if stop <= position)
    assert rewind_all(caches, position) == wanted
    assert {cache.length for cache in caches} <= {wanted}

"""Indexer: exactly so many positions are chosen, the best ones, and of equal ones the first."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.layers.indexer import largest, positions

SCORES = st.integers(1, 30).flatmap(
    lambda width: st.lists(
        st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=width, max_size=width),
        min_size=1,
        max_size=4,
    )
)


@given(SCORES, st.integers(1, 30))
def test_the_best_are_chosen_and_of_equal_ones_the_first(scores: list[list[float]], count: int) -> None:
    count = min(count, len(scores[0]))
    selected = largest(mx.array(scores, dtype=mx.float32), count)
    for row, chosen in zip(scores, selected, strict=True):
        wanted = sorted(sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:count])
        assert np.flatnonzero(np.array(chosen)).tolist() == wanted
        assert positions(chosen, count).tolist() == wanted

"""Backlog: consecutive positions, of which the oldest give way."""

from __future__ import annotations

import mlx.core as mx
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.decoding.drafting.backlog import KEPT, Backlog

steps = st.lists(
    st.tuples(st.just("add"), st.sampled_from([1, 3, 200, 512]))
    | st.tuples(st.just("take"), st.floats(0, 1))
    | st.tuples(st.just("before"), st.floats(0, 1)),
    max_size=12,
)


@given(steps)
def test_the_newest_positions_stay_in_order_and_many_are_never_kept(steps: list[tuple[str, float]]) -> None:
    backlog = Backlog()
    for step, much in steps:
        start, end, few = backlog.start, backlog.end, len(backlog)
        match step:
            case "add":
                backlog.add(mx.arange(end, end + int(much))[:, None])
                assert backlog.end == end + much
                assert backlog.start == start or len(backlog) >= KEPT
            case "take" if few:
                count = max(1, int(much * few))
                assert backlog.take(count).flatten().tolist() == list(range(start, start + count))
                assert (backlog.start, backlog.end) == (start + count, end)
            case "before":
                position = int(much * end)
                backlog = backlog.before(position)
                assert (backlog.start, backlog.end) == (min(start, position), position)
        assert len(backlog) < KEPT + 512
    if few := len(backlog):
        assert backlog.take(few).flatten().tolist() == list(range(backlog.end - few, backlog.end))

"""Speculation, the pure bookkeeping: how many drafts are made, and what is in flight."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.decoding.request import GenerationStats
from mlx_moe.decoding.speculation import PROBE_EVERY, Acceptance, Speculation, worth_of


def speculation(n_stages: int = 8, acceptance: Acceptance | None = None) -> Speculation:
    return Speculation(acceptance or Acceptance(), worth_of(n_stages), GenerationStats())


def run(drafts: Speculation, right: Callable[[int], bool], tokens: int, frames: int = 8) -> None:
    """Write tokens, all of them 1, with as many drafts in flight as are wanted; of depth d they are 1 if `right(d)`."""
    for _ in range(tokens):
        while drafts.wants_draft(frames):
            drafts.add(1 if right(len(drafts.token_ids) + 1) else 0)
        drafts.settle(1)


def test_a_drafter_that_is_always_right_fills_the_pipeline_and_one_that_is_never_is_only_probed() -> None:
    drafts = speculation()
    run(drafts, lambda _: True, 64)
    assert len(drafts.token_ids) == 6  # the last one was settled, and the next is not made yet
    assert drafts.stats.accepted == 64
    drafts = speculation()
    run(drafts, lambda _: False, 64)
    before = drafts.stats.drafted
    run(drafts, lambda _: False, 10 * PROBE_EVERY)
    assert drafts.stats.drafted - before <= 11


def test_a_drafter_that_becomes_good_is_found_again() -> None:
    drafts = speculation()
    run(drafts, lambda _: False, 100)
    run(drafts, lambda _: True, 2 * PROBE_EVERY)
    assert len(drafts.token_ids) >= 4


def test_the_depth_ends_where_drafts_are_not_right_any_more() -> None:
    drafts = speculation()
    run(drafts, lambda depth: depth <= 2, 200)
    before = drafts.stats.drafted
    run(drafts, lambda depth: depth <= 2, 100)
    compared, accepted = drafts.stats.compared_by_depth, drafts.stats.accepted_by_depth
    assert accepted[:2] == compared[:2]
    assert all(count == 0 for count in accepted[2:])
    assert drafts.stats.drafted - before <= 110


@given(st.integers(1, 16), st.lists(st.tuples(st.integers(0, 8), st.booleans()), max_size=60))
def test_what_is_in_flight_is_always_what_a_plain_list_says(n_stages: int, events: list[tuple[int, bool]]) -> None:
    drafts = speculation(n_stages)
    in_flight: list[int] = []
    for count, right in events:
        for token_id in range(count):
            if drafts.wants_draft(n_stages):
                drafts.add(token_id)
                in_flight.append(token_id)
        assert len(in_flight) <= n_stages - 1
        truth = in_flight[0] if right and in_flight else 99
        expected = bool(in_flight) and right
        assert drafts.settle(truth) is expected
        in_flight = in_flight[1:] if expected else []
        assert drafts.token_ids == in_flight

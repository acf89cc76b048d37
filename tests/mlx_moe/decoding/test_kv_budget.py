"""KVBudget: never over its bound, never an older request for a newer one, the least recently used first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlx_moe.decoding.kv_budget import KVBudget
from mlx_moe.errors import BusyError, EvictedError, TooLargeError
from mlx_moe.layers.cache_costs import GROWTH

SESSIONS = st.sampled_from("abcdef")
POSITIONS = st.integers(1, 10 * GROWTH)


class Sessions(RuleBasedStateMachine):
    """Sessions that begin, grow, rest and close, beside a plain list of the same."""

    @initialize(steps=st.integers(1, 8), rest=st.integers(0, GROWTH - 1), fixed=st.sampled_from([0, GROWTH // 3]))
    def begin(self, steps: int, rest: int, fixed: int) -> None:
        self.budget = KVBudget(steps * GROWTH + rest, fixed)
        self.active: list[str] = []  # oldest first
        self.idle: list[str] = []  # least recently used first

    @rule(name=SESSIONS, positions=POSITIONS)
    def admit(self, name: str, positions: int) -> None:
        if name in self.active:
            return
        try:
            gone = self.budget.admit(name, positions)
        except (TooLargeError, BusyError):
            return
        self.idle = [n for n in self.idle if n != name]
        self.expect_idle(gone)
        self.active.append(name)

    @precondition(lambda self: self.active)
    @rule(data=st.data(), end=POSITIONS)
    def use(self, data: st.DataObject, end: int) -> None:
        name = data.draw(st.sampled_from(self.active))
        try:
            gone = self.budget.use(name, end)
        except EvictedError:
            return
        n_idle = min(len(gone), len(self.idle))
        newer = gone[n_idle:]
        self.expect_idle(gone[:n_idle])
        assert newer == self.active[::-1][: len(newer)]
        assert name not in newer
        self.active = self.active[: len(self.active) - len(newer)]

    @precondition(lambda self: self.active)
    @rule(data=st.data())
    def rest(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.active))
        self.budget.rest(name)
        self.active.remove(name)
        self.idle.append(name)

    @rule(name=SESSIONS)
    def release(self, name: str) -> None:
        self.budget.release(name)
        self.active = [n for n in self.active if n != name]
        self.idle = [n for n in self.idle if n != name]

    def expect_idle(self, gone: list[str]) -> None:
        assert gone == self.idle[: len(gone)]
        del self.idle[: len(gone)]

    @invariant()
    def never_over_the_bound(self) -> None:
        assert self.budget.taken <= self.budget.positions


def test_any_order_of_events_keeps_the_bound_and_the_order_of_giving_way() -> None:
    run_state_machine_as_test(Sessions)


def test_room_is_counted_in_the_steps_that_caches_grow_by() -> None:
    budget = KVBudget(4 * GROWTH)
    budget.admit("a", 1)
    budget.admit("b", GROWTH + 1)
    assert budget.taken == 3 * GROWTH


def test_a_session_at_rest_keeps_what_it_used_and_not_what_it_reserved() -> None:
    budget = KVBudget(8 * GROWTH)
    budget.admit("a", 5 * GROWTH)
    budget.use("a", GROWTH + 1)
    budget.rest("a")
    assert budget.taken == 2 * GROWTH


def test_the_part_of_caches_that_does_not_grow_counts_for_each_further_session() -> None:
    budget = KVBudget(4 * GROWTH, fixed_positions=GROWTH)
    budget.admit("a", GROWTH)
    budget.admit("b", GROWTH)
    assert budget.taken == 3 * GROWTH
    with pytest.raises(BusyError, match=r"being answered have 1024 of 1024"):
        budget.admit("c", 1)
    budget.use("a", GROWTH)
    budget.rest("a")
    assert budget.admit("c", GROWTH) == ["a"]


def test_what_can_never_fit_is_told_from_what_does_not_fit_now() -> None:
    budget = KVBudget(4 * GROWTH)
    with pytest.raises(TooLargeError, match="may take 1280 positions of KV cache, the memory has room for 1024"):
        budget.admit("a", 4 * GROWTH + 1)
    budget.admit("a", 3 * GROWTH)
    with pytest.raises(BusyError, match=r"may take 512 .* being answered have 768 of 1024"):
        budget.admit("b", 2 * GROWTH)


@given(positions=POSITIONS)
def test_without_a_bound_nobody_gives_way(positions: int) -> None:
    budget = KVBudget()
    assert [budget.admit(name, positions) for name in "abc"] == [[], [], []]

"""Watch: a step that takes far longer than before is stuck; a slow machine or a stopped process is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.worker import watch as module
from cluster.worker.watch import FACTOR, FIRST_S, STUCK_S, Watch


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def step(self, watch: Watch, rows: int, seconds: float) -> None:
        with watch.step("a layer", rows):
            self.now += seconds

    def stuck_after(self, watch: Watch, rows: int) -> float:
        """Return after how many seconds a step that never ends is found to be stuck."""
        began, said = self.now, ""
        with watch.step("a layer", rows):
            while not (said := watch.overdue(self.now)):
                self.now += 0.5
        assert said.startswith(f"a layer of {rows} positions takes ")
        return self.now - began


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_the_first_step_of_a_kind_may_take_long(clock: Clock) -> None:
    watch = Watch()
    assert clock.stuck_after(watch, 512) == pytest.approx(FIRST_S, abs=0.6)
    clock.step(watch, 1, 0.01)
    assert watch.limit_s("a layer", 1) == STUCK_S
    assert watch.limit_s("a layer", 512) > STUCK_S


def test_a_step_is_stuck_after_a_time_that_follows_from_those_before(clock: Clock) -> None:
    watch = Watch()
    for seconds in (0.2, 2.0, 1.8):
        clock.step(watch, 128, seconds)
    assert clock.stuck_after(watch, 128) == pytest.approx(FACTOR * 1.8, abs=0.6)
    fast = Watch()
    for _ in range(3):
        clock.step(fast, 128, 0.1)
    assert clock.stuck_after(fast, 128) == pytest.approx(STUCK_S, abs=0.6)


def test_a_single_slow_step_does_not_make_the_watch_patient(clock: Clock) -> None:
    watch = Watch()
    for seconds in (0.1, 30.0, 0.1):
        clock.step(watch, 8, seconds)
    assert watch.limit_s("a layer", 8) == STUCK_S


def test_a_process_that_was_stopped_is_not_stuck(clock: Clock) -> None:
    watch = Watch()
    clock.step(watch, 1, 0.1)
    with watch.step("a layer", 1):
        assert watch.overdue(clock.now) == ""
        clock.now += 3600
        assert watch.overdue(clock.now) == ""
        clock.now += 0.5
        assert watch.overdue(clock.now) == ""
    assert not watch.is_computing


@given(st.lists(st.floats(0.001, 5.0), min_size=2, max_size=60), st.floats(1.0, FACTOR / 2))
def test_a_load_that_slows_everything_is_no_reason(steps: list[float], slower: float) -> None:
    watch = Watch()
    now = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "monotonic", lambda: now)
        for seconds in [max(steps)] * 2 + steps[: module.RECENT - 2]:
            with watch.step("a layer", 4):
                now += seconds
        with watch.step("a layer", 4):
            ends = now + max(steps) * slower
            while now < ends:
                assert watch.overdue(now) == ""
                now += 0.5

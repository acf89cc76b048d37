"""The search by itself: against plain recursion, over more layers than placements can be listed for."""

from __future__ import annotations

from functools import cache

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.placement.search import NEVER, Unit, fastest, fits, shortest_slowest

CLASSES = 2
Problem = tuple[list[Unit], tuple[int, ...], np.ndarray]


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """Units of single nodes and of groups, small numbers so that much is equal."""
    n_layers = draw(st.integers(1, 12))
    small = st.integers(1, 9)
    available = tuple(draw(st.integers(1, 3)) for _ in range(CLASSES))

    def unit(leader: int, peer: int | None) -> Unit:
        times = draw(st.lists(small, min_size=n_layers, max_size=n_layers))
        held = np.cumsum([0, *draw(st.lists(small, min_size=n_layers, max_size=n_layers))])
        time, start = np.cumsum([0, *times]), np.searchsorted(held, held - draw(st.integers(5, 40)))
        opening = np.where(start == 0, time + draw(small), NEVER)
        opening[0] = NEVER
        uses = tuple((c == leader) + (c == peer) for c in range(CLASSES))
        return Unit(leader, uses, time, start, opening)

    units = [unit(leader, peer) for leader in range(CLASSES) for peer in (None, *range(CLASSES))]
    hops = np.array(draw(st.lists(st.lists(small, min_size=2, max_size=2), min_size=2, max_size=2)))
    return units, available, hops


def plain(problem: Problem) -> tuple[int, int]:
    """Return the least sum and the least slowest stage, NEVER where nothing fits."""
    units, available, hops = problem
    n_layers = len(units[0].time) - 1

    @cache
    def rest(free: tuple[int, ...], start: int, last: int, first: int) -> tuple[int, int]:
        if start == n_layers:
            return int(hops[last, first]), 0
        sums, slowest = [NEVER], [NEVER]
        for unit in units:
            left = tuple(n - used for n, used in zip(free, unit.uses, strict=True))
            if min(left) < 0:
                continue
            for stop in range(start + 1, n_layers + 1):
                if unit.start[stop] <= start:
                    time = int(unit.time[stop] - unit.time[start])
                    later = rest(left, stop, unit.leader, first)
                    sums.append(int(hops[last, unit.leader]) + time + later[0])
                    slowest.append(max(time, later[1]))
        return min(sums), min(slowest)

    sums, slowest = [NEVER], [NEVER]
    for unit in units:
        left = tuple(n - used for n, used in zip(available, unit.uses, strict=True))
        if min(left) < 0:
            continue
        for stop in range(1, n_layers + 1):
            if (time := int(unit.opening[stop])) < NEVER:
                later = rest(left, stop, unit.leader, unit.leader)
                sums.append(time + (0 if stop == n_layers else later[0]))
                slowest.append(max(time, later[1]))
    return min(*sums, NEVER), min(*slowest, NEVER)


@settings(max_examples=150)
@given(problems())
def test_the_least_sum_and_the_least_slowest_stage_are_found(problem: Problem) -> None:
    units, available, hops = problem
    least, slowest = plain(problem)
    found = fastest(units, available, hops)
    assert fits(units, available) == (found is not None) == (least < NEVER)
    if found is None:
        assert shortest_slowest(units, available) is None
        return
    assert found[0] == least
    assert shortest_slowest(units, available) == slowest
    runs = found[1]
    times = [int(runs[0].unit.opening[runs[0].stop])]
    times += [int(run.unit.time[run.stop] - run.unit.time[run.start]) for run in runs[1:]]
    ring = [run.unit.leader for run in runs]
    hop_times = [int(hops[a, b]) for a, b in zip(ring, [*ring[1:], ring[0]], strict=True)] if len(runs) > 1 else []
    assert sum(times) + sum(hop_times) == least
    assert all(run.unit.start[run.stop] <= run.start for run in runs[1:])
    used = np.sum([run.unit.uses for run in runs], axis=0)
    assert np.all(used <= available)

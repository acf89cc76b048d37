"""Search: the best chain of stages over all layers. Uses integers and arrays; knows nothing about models or nodes.

Nodes of one class are interchangeable, so a state of the search is the number of used nodes of each class: eight equal
nodes have 9 states, eight different ones 256. Times are integers in nanoseconds, so that equal times compare equal.

C classes, S states, B boundaries between layers (number of layers + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]

NEVER = 1 << 60
"""An infinite time; the sum of two still fits into 64 bits."""

MAX_STATES = 1 << 12
"""Limit of the search: twelve nodes that all differ, or fifty in two classes, take about a second."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Nodes that can form one stage: a leader of class `leader`, and `uses[c]` nodes of each class c, leader included.

    `time[b]` is the time of the layers before b, so a stage of layers [a, b) takes time[b] - time[a]. `start[b]` is the
    first layer a for which a stage [a, b) fits (b if none does); it never decreases. `opening[b]` is the time of the
    first stage [0, b), which also coordinates; NEVER if it does not fit. All three are `[B]`.
    """

    leader: int
    uses: tuple[int, ...]
    time: Integers
    start: Integers
    opening: Integers

    def capped(self, cap: int) -> Unit:
        """Return the unit without stages that take longer than `cap`."""
        start = np.maximum(self.start, np.searchsorted(self.time, self.time - cap))
        return replace(self, start=start, opening=np.where(self.opening <= cap, self.opening, NEVER))

    def ends(self) -> Integers:
        """Return, for each layer a, the end b of the longest stage [a, b). `[B]`."""
        return np.searchsorted(self.start, np.arange(len(self.start)), side="right") - 1


@dataclass(frozen=True, slots=True)
class Run:
    """A stage of the result: layers [start, stop) on the nodes of `unit`."""

    unit: Unit
    start: int
    stop: int


class Lattice:
    """All states of the search, numbered; a state is the number of used nodes of each class."""

    def __init__(self, available: Sequence[int]) -> None:
        sizes = [count + 1 for count in available]
        self.counts = np.stack([axis.ravel() for axis in np.indices(sizes)], axis=1)  # [S, C]
        self.available = np.array(available)
        self._strides = np.array([int(np.prod(sizes[i + 1 :])) for i in range(len(sizes))])
        self._used = self.counts.sum(axis=1)

    def index(self, counts: Sequence[int] | Integers) -> int:
        """Return the number of the state `counts`, or the difference of numbers when `counts` more nodes are used."""
        return int(self._strides @ np.asarray(counts))

    def level(self, used: int) -> Integers:
        """Return the states that use `used` nodes in all."""
        return np.flatnonzero(self._used == used)

    def room(self, states: Integers, uses: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Return for each of the states whether it leaves the nodes of `uses` free."""
        room: npt.NDArray[np.bool_] = np.all(self.counts[states] + np.asarray(uses) <= self.available, axis=1)
        return room


def fastest(units: Sequence[Unit], available: Sequence[int], hops: Integers) -> tuple[int, tuple[Run, ...]] | None:
    """Return the smallest sum of stage times and hops around the ring, and its stages; None if nothing fits.

    `hops[i, j]` is the time from a node of class i to one of class j, `[C, C]`; a single stage has no hop.
    """
    table = _Table(_usable(units, available), Lattice(available), hops)
    closed = table.times[:, :, -1] + hops  # [S, C last, C first]
    alone = min(table.units, key=lambda unit: int(unit.opening[-1]))
    if (total := int(alone.opening[-1])) <= closed.min() and total < NEVER:
        return total, (Run(alone, 0, len(alone.time) - 1),)
    state, last, first = (int(i) for i in np.unravel_index(closed.argmin(), closed.shape))
    if (total := int(closed[state, last, first])) >= NEVER:
        return None
    return total, table.trace(state, last, first)


def shortest_slowest(units: Sequence[Unit], available: Sequence[int]) -> int | None:
    """Return the smallest possible time of the slowest stage; None if nothing fits."""
    units = _usable(units, available)
    lattice = Lattice(available)
    n_layers = len(units[0].time) - 1
    if _reach(units, lattice) < n_layers:
        return None
    candidates = _stage_times(units)
    low, high = 0, len(candidates) - 1
    while low < high:
        middle = (low + high) // 2
        if _reach([unit.capped(int(candidates[middle])) for unit in units], lattice) == n_layers:
            high = middle
        else:
            low = middle + 1
    return int(candidates[low])


def fits(units: Sequence[Unit], available: Sequence[int]) -> bool:
    """Whether any chain of stages holds all layers. False without units."""
    units = _usable(units, available)
    return bool(units) and _reach(units, Lattice(available)) == len(units[0].time) - 1


def _usable(units: Sequence[Unit], available: Sequence[int]) -> list[Unit]:
    return [unit for unit in units if all(n <= limit for n, limit in zip(unit.uses, available, strict=True))]


def _stage_times(units: Sequence[Unit]) -> Integers:
    """Return all possible times of a stage, ascending."""
    times = [unit.opening[unit.opening < NEVER] for unit in units]
    for unit in units:
        starts = np.arange(len(unit.time))[:, None]
        possible = (starts >= unit.start) & (starts < starts.T)
        times.append((unit.time - unit.time[:, None])[possible])
    return np.unique(np.concatenate(times))


class _Table:
    """The smallest time of layers [0, b) in each state, by the leader classes of the last and the first stage.

    `times` is `[S, C last, B, C first]`. A stage's time is a difference of prefix sums, so its best start is a minimum
    over a window of boundaries.
    """

    def __init__(self, units: Sequence[Unit], lattice: Lattice, hops: Integers) -> None:
        self.units = units
        self._lattice = lattice
        self._hops = hops
        n_classes = len(lattice.available)
        shape = (len(lattice.counts), n_classes, len(units[0].time), n_classes)
        self.times = np.full(shape, NEVER, dtype=np.int64)
        for unit in units:
            best = self.times[lattice.index(unit.uses), unit.leader, :, unit.leader]
            np.minimum(best, unit.opening, out=best)
        for used in range(1, int(lattice.available.sum())):
            for leader in range(n_classes):
                self._extend(lattice.level(used), leader)

    def trace(self, state: int, last: int, first: int) -> tuple[Run, ...]:
        """Return the stages that hold all layers in the time `times[state, last, -1, first]`."""
        runs: list[Run] = []
        stop = self.times.shape[2] - 1
        while stop > 0:
            run, state, last = self._last_run(state, last, first, stop)
            runs.append(run)
            stop = run.start
        return tuple(reversed(runs))

    def _extend(self, states: Integers, leader: int) -> None:
        """Extend the chains of the states by one stage that a node of class `leader` leads."""
        n_classes = len(self._lattice.available)
        states = states[self._lattice.room(states, np.arange(n_classes) == leader)]
        hop = self._hops[:, leader]
        arriving = self.times[states, 0] + hop[0]  # [S, B, C first]
        for last in range(1, n_classes):
            np.minimum(arriving, self.times[states, last] + hop[last], out=arriving)
        for unit in self.units:
            if unit.leader == leader:
                room = self._lattice.room(states, unit.uses)
                time = unit.time[:, None]
                best = _window_minimum(arriving[room] - time, unit.start) + time
                targets = states[room] + self._lattice.index(unit.uses)
                self.times[targets, leader] = np.minimum(self.times[targets, leader], best)

    def _last_run(self, state: int, last: int, first: int, stop: int) -> tuple[Run, int, int]:
        """Return the stage that ends before layer `stop`, and the state and last leader class before it."""
        value = self.times[state, last, stop, first]
        for unit in self.units:
            if unit.leader != last or np.any(self._lattice.counts[state] < unit.uses):
                continue
            before = state - self._lattice.index(unit.uses)
            if before == 0 and unit.opening[stop] == value:
                return Run(unit, 0, stop), 0, last
            start = int(unit.start[stop])
            times = self.times[before, :, start:stop, first] + self._hops[:, last, None]
            found = np.argwhere(times + (unit.time[stop] - unit.time[start:stop]) == value)
            if len(found):
                leader, offset = (int(i) for i in found[0])
                return Run(unit, start + offset, stop), before, leader
        raise AssertionError("no unit explains an entry of the table")


def _window_minimum(x: Integers, start: Integers) -> Integers:
    """Return for each b the minimum of x[:, start[b]:b], NEVER if it is empty; x and the result are `[S, B, C]`.

    Two runs whose length is a power of two cover any window.
    """
    stop = np.arange(len(start))
    length = stop - start
    result = np.full_like(x, NEVER)
    run, size = x, 1
    while size <= length.max():
        here = np.flatnonzero((size <= length) & (length < 2 * size))
        result[:, here] = np.minimum(run[:, start[here]], run[:, stop[here] - size])
        run, size = np.minimum(run[:, :-size], run[:, size:]), 2 * size
    return result


def _reach(units: Sequence[Unit], lattice: Lattice) -> int:
    """Return the largest number of layers, from the first on, that the nodes can hold.

    A later start never makes a stage end earlier, so the largest number for each state is enough.
    """
    reach = np.zeros(len(lattice.counts), dtype=np.int64)
    ends = [unit.ends() for unit in units]
    for unit in units:
        state = lattice.index(unit.uses)
        reach[state] = max(reach[state], np.count_nonzero(unit.opening[1:] < NEVER))
    for used in range(1, int(lattice.available.sum())):
        states = lattice.level(used)
        states = states[reach[states] > 0]
        for unit, end in zip(units, ends, strict=True):
            sources = states[lattice.room(states, unit.uses)]
            targets = sources + lattice.index(unit.uses)
            reach[targets] = np.maximum(reach[targets], end[reach[sources]])
    return int(reach.max())

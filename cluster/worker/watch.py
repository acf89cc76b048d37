"""Watch: what a worker computes now, how long the same took before, and whether it is stuck.

Its clock stands while the process does not run, so that a process that was stopped is not taken for a stuck one. Knows
nothing about threads: see `watchdog`.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

STUCK_S = 6.0
"""A step that takes longer is stuck, unless such steps took more than a FACTOR-th of this before ..."""

FACTOR = 10.0

WITH_PEERS_S = 8.5
"""... and if it may wait for another node, which is watched itself and should be found first."""

FIRST_S = 60.0
"""How long the first step of a kind may take: kernels are compiled, weights are read from disk."""

RECENT = 32
STANDS_S = 1.0
"""A longer pause between two looks is a time in which this process did not run."""


@dataclass(frozen=True, slots=True)
class _Step:
    what: str
    rows: int
    began_s: float

    @property
    def key(self) -> tuple[str, int]:
        """Steps with the same key take about as long."""
        return self.what, self.rows.bit_length()


class Watch:
    """The steps of one part. `step` is used by the event loop's thread, `overdue` by another one."""

    def __init__(self, stuck_s: float = STUCK_S) -> None:
        self._stuck_s = stuck_s
        self._open: dict[int, _Step] = {}
        self._numbers = itertools.count()
        self._recent: defaultdict[tuple[str, int], deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self._stood_s = 0.0
        self._looked_s: float | None = None

    @contextmanager
    def step(self, what: str, rows: int) -> Iterator[None]:
        """Measure a step of computing over so many positions, of which the watch knows until its end."""
        number, step = next(self._numbers), _Step(what, rows, self._clock(time.monotonic()))
        self._open[number] = step
        try:
            yield
        finally:
            del self._open[number]
            self._recent[step.key].append(self._clock(time.monotonic()) - step.began_s)

    def each(self, what: str, rows: int, steps: Iterator[Item]) -> Iterator[Item]:
        """Yield what an iterator yields; each next item is a step."""
        while True:
            with self.step(what, rows):
                try:
                    item = next(steps)
                except StopIteration:
                    return
            yield item

    @property
    def is_computing(self) -> bool:
        """Whether a step is being computed."""
        return bool(self._open)

    def limit_s(self, what: str, rows: int) -> float:
        """Return how long a step may take."""
        recent = self._recent.get(_Step(what, rows, 0.0).key)
        if not recent:
            return FIRST_S
        slow_s = sorted(recent)[-2:][0]  # the second slowest: one may have been as long as this process stood still
        return max(self._stuck_s, FACTOR * slow_s)

    def overdue(self, now: float) -> str:
        """Say which step takes too long, "" if none does; `now` is monotonic. Called about twice a second."""
        if self._looked_s is not None and now - self._looked_s > STANDS_S:
            self._stood_s += now - self._looked_s - STANDS_S
        self._looked_s = now
        for step in tuple(self._open.values()):
            seconds, limit_s = self._clock(now) - step.began_s, self.limit_s(step.what, step.rows)
            if seconds > limit_s:
                return f"{step.what} of {step.rows} positions takes {seconds:.1f} s; it may take {limit_s:.1f} s"
        return ""

    def _clock(self, now: float) -> float:
        return now - self._stood_s

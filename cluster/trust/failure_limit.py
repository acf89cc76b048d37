"""Failure limit: how often enrolment may fail before a caller has to wait. Pure; the caller passes the time."""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0
PER_ADDRESS = 5
OVERALL = 60


class FailureLimit:
    """Counts failures of the last minute: at most 5 per address and 60 overall. Stores at most 60."""

    def __init__(self) -> None:
        self._failures: deque[tuple[float, str]] = deque(maxlen=OVERALL)

    def wait_s(self, address: str, now_s: float) -> float:
        """Return how many seconds this address must wait, 0 if it may try. `now_s` is monotonic."""
        while self._failures and self._failures[0][0] <= now_s - WINDOW_S:
            self._failures.popleft()
        own = [at_s for at_s, failed in self._failures if failed == address]
        if len(own) >= PER_ADDRESS:
            return own[0] + WINDOW_S - now_s
        if len(self._failures) == OVERALL:
            return self._failures[0][0] + WINDOW_S - now_s
        return 0.0

    def failed(self, address: str, now_s: float) -> None:
        """Count a failure of this address."""
        self._failures.append((now_s, address))

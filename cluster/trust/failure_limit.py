"""Failure limit: how often enrolment may fail before a caller has to wait. Pure; the caller passes the time.

Each address has its own count: what strangers guess at other addresses keeps nobody waiting. No limit over all of them
is needed: a secret has 192 bits.
"""

from __future__ import annotations

from collections import OrderedDict, deque

WINDOW_S = 60.0
PER_ADDRESS = 5
MAX_ADDRESSES = 1024
"""Number of addresses that are remembered; who has more of them gets more tries, at a secret of 192 bits."""


class FailureLimit:
    """Counts each address's failures of the last minute, up to 5. Remembers the MAX_ADDRESSES that failed last."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def wait_s(self, address: str, now_s: float) -> float:
        """Return how many seconds this address must wait, 0 if it may try. `now_s` is monotonic."""
        failures = self._failures.get(address)
        if failures is None or len(failures) < PER_ADDRESS:
            return 0.0
        return max(0.0, failures[0] + WINDOW_S - now_s)

    def failed(self, address: str, now_s: float) -> None:
        """Count a failure of this address."""
        self._failures.setdefault(address, deque(maxlen=PER_ADDRESS)).append(now_s)
        self._failures.move_to_end(address)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

"""Hub retry: which failures of an exchange with the hub are momentary, and how long to try again.

huggingface_hub's own back-off waits as long as the hub says, without a limit, cannot be stopped, and logs addresses
with their signatures.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
from huggingface_hub.errors import HfHubHTTPError

from mlx_moe.checkpoint import hub_errors
from mlx_moe.checkpoint.source import SourceError

STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class MomentaryError(Exception):
    """A failure that may be gone at the next try, not before `retry_after_s`."""

    def __init__(self, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Patience:
    """How many tries in a row may fail without any progress, and the waits between them, which double."""

    tries: int = 6
    first_wait_s: float = 0.5
    longest_wait_s: float = 10.0
    longest_retry_after_s: float = 300.0


class Tries:
    """The tries of one exchange; `what` begins the message when they end. `stop` ends a wait."""

    def __init__(self, what: str, patience: Patience, stop: threading.Event) -> None:
        self._what, self._patience, self._stop = what, patience, stop
        self._failures = 0

    def progressed(self) -> None:
        """Count failures anew."""
        self._failures = 0

    def failed(self, error: MomentaryError) -> None:
        """Wait until the next try. Raises SourceError if there is none."""
        self._failures += 1
        what, patience = f"{self._what}: {error}", self._patience
        if self._failures >= patience.tries:
            raise SourceError(f"{what} ({self._failures} tries); try again later: what is stored is kept") from error
        if error.retry_after_s > patience.longest_retry_after_s:
            raise SourceError(f"{what}; try again in {error.retry_after_s:.0f} s") from error
        wait_s = min(patience.first_wait_s * 2 ** (self._failures - 1), patience.longest_wait_s)
        wait_s *= random.uniform(0.5, 1)  # nodes that failed together do not return together
        if self._stop.wait(max(error.retry_after_s, wait_s)):
            raise SourceError(f"{what}; stopped") from error


@contextmanager
def momentary() -> Iterator[None]:
    """Turn momentary failures into MomentaryError; all others pass."""
    try:
        yield
    except HfHubHTTPError as exc:
        check_status(exc.response)
        raise
    except (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError) as exc:
        raise MomentaryError(hub_errors.cause(exc)) from exc


def check_status(response: httpx2.Response) -> None:
    """Raise MomentaryError if the status of an answer is momentary."""
    if response.status_code in STATUSES:
        text = response.headers.get("Retry-After", "").strip()
        raise MomentaryError(f"it answers {response.status_code}", float(text) if text.isdigit() else 0.0)

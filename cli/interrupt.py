"""Interrupt: defers Ctrl-C to the next token boundary."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Any

POLL_S = 0.05


class Interrupt:
    """Defers the first Ctrl-C to `check`; the second raises at once.

    `forced`: there was a second Ctrl-C, so the interrupted work may be incomplete.
    """

    def __init__(self) -> None:
        self.requested = False
        self.forced = False
        self._previous: Any = None

    def __enter__(self) -> Interrupt:
        """Install the handler of SIGINT."""
        self._previous = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous handler of SIGINT."""
        signal.signal(signal.SIGINT, self._previous)

    def wait(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` for Ctrl-C; return whether it was pressed."""
        deadline = time.monotonic() + timeout_s
        while not self.requested and time.monotonic() < deadline:
            time.sleep(POLL_S)  # an Event would deadlock: the handler interrupts the waiting thread
        return self.requested

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed."""
        if self.requested:
            raise KeyboardInterrupt

    def _note(self, _signum: int, _frame: FrameType | None) -> None:
        if self.requested:
            self.forced = True
            raise KeyboardInterrupt
        self.requested = True

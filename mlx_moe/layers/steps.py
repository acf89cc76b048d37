"""Steps: a computation that can be interrupted where it waits for something that it has started."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

Result = TypeVar("Result")

Wait = Callable[[], None]
"""Blocks until a started computation is done; may be called in another thread, while nothing else computes."""

Steps = Generator[Wait, None, Result]
"""Yields a Wait and continues after it; a short computation yields nothing."""


def finish(steps: Steps[Result]) -> Result:
    """Run a computation to its end; wait in this thread."""
    while True:
        try:
            wait = next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result
        wait()

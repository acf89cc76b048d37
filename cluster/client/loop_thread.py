"""LoopThread: an event loop in a thread of its own, where plain code runs the asynchronous clients."""

from __future__ import annotations

import asyncio
import atexit
import functools
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """A loop that runs until the process ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="moe-cluster-client", daemon=True)
        self._thread.start()
        atexit.register(self._end)

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine in the loop; cancelling the returned future cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it. If the wait is interrupted, e.g. by Ctrl-C, it is cancelled."""
        future = self.start(work)
        try:
            return future.result()
        finally:
            future.cancel()  # does nothing once it is done

    def soon(self, call: Callable[[], object]) -> None:
        """Schedule a call in the loop without waiting for it."""
        self._loop.call_soon_threadsafe(call)

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@functools.cache
def shared_loop() -> LoopThread:
    """Return the loop that all plain clients of this process share: gRPC polls for each loop, which costs."""
    return LoopThread()

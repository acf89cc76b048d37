"""Turns: how many requests are answered at once, and who is next: clients take turns, whatever each of them sends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mlx_moe.errors import BusyError

AT_ONCE = 64
WAITING = 256
"""Limits of the requests that are answered, and of those that wait for it."""


class Turns:
    """Lets a bounded number of requests through; the others wait in one queue for each client."""

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self.running = 0
        self._at_once = at_once
        self._most_waiting = waiting
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}  # in the order in which clients have their turns

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a turn of this client, and hold it within the block. Raises BusyError if too many wait already."""
        if self.running < self._at_once:
            self.running += 1
        else:
            await self._wait(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, client: str) -> None:
        if self.waiting >= self._most_waiting:
            raise BusyError(
                f"{self.running} requests are being answered and {self.waiting} wait, the most allowed: try again later"
            )
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # it had its turn, and the client went away at the same moment
            raise

    def _pass_on(self) -> None:
        """Give the turn to the next client's first request; clients go to the end of the line after each."""
        while self._queues:
            client, queue = next(iter(self._queues.items()))
            del self._queues[client]
            turn = queue.popleft()
            if queue:
                self._queues[client] = queue
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1

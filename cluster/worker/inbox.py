"""Inbox: the queue of messages that wait for a stage."""

from __future__ import annotations

import asyncio
from collections import deque

from cluster.worker.arrays import is_frame
from cluster.worker.messages import Message
from mlx_moe.pipeline.frame import makes_void


class Inbox:
    """Queued frames. A new frame invalidates queued frames of its sequence at the same or later positions.

    It has no limit of its own: the coordinator limits the frames in flight.
    """

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._arrived = asyncio.Event()

    def put(self, message: Message) -> None:
        """Append a message."""
        if is_frame(message):
            self._waiting = deque(
                other for other in self._waiting if not (is_frame(other) and makes_void(message, other))
            )
        self._waiting.append(message)
        self._arrived.set()

    async def get(self) -> Message:
        """Return the next message. Yields to the event loop first, so that messages that have arrived are queued."""
        if self._waiting:
            await asyncio.sleep(0)
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.popleft()

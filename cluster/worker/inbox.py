"""Inbox: the queue of messages that wait for a stage."""

from __future__ import annotations

import asyncio
from collections import deque

from cluster.worker.arrays import is_frame
from cluster.worker.messages import Message
from mlx_moe.pipeline.frame import makes_void

MOST_MESSAGES = 1024
"""Messages that wait: frames, and forks and releases, which a coordinator sends for each answer."""


class Inbox:
    """Queued frames. A new frame invalidates queued frames of its sequence at the same or later positions.

    The coordinator limits the frames in flight: `room` only holds back a node that sends more than a ring needs.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._waiting: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()

    def put(self, message: Message) -> None:
        """Append a message."""
        if is_frame(message):
            self._waiting = deque(
                other for other in self._waiting if not (is_frame(other) and makes_void(message, other))
            )
        self._waiting.append(message)
        self._arrived.set()

    async def room(self) -> None:
        """Return when the queue has room for another message."""
        while len(self._waiting) > MOST_MESSAGES or sum(len(m.payload) for m in self._waiting) > self._most_bytes:
            self._taken.clear()
            await self._taken.wait()

    async def get(self) -> Message:
        """Return the next message. Yields to the event loop first, so that messages that have arrived are queued."""
        if self._waiting:
            await asyncio.sleep(0)
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        self._taken.set()
        return self._waiting.popleft()

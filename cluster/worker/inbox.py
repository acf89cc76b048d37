"""Inbox: the queue of messages that wait for a stage."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from cluster.worker.arrays import is_frame, is_step
from cluster.worker.messages import Message
from mlx_moe.layers.batches import TOGETHER
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

    def put(self, messages: Sequence[Message]) -> None:
        """Append messages."""
        for message in messages:
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

    async def get(self) -> list[Message]:
        """Return the next message; if it is a step, all steps that can be computed together with it.

        Yields to the event loop first, so that messages that have arrived are queued.
        """
        if self._waiting:
            await asyncio.sleep(0)
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        if is_step(self._waiting[0]):
            return self.take_steps()
        self._taken.set()
        return [self._waiting.popleft()]

    def take_steps(self, running: str = "") -> list[Message]:
        """Return the waiting steps that may run now as one batch, one of a sequence; none of the `running` sequence.

        They overtake what waits of other sequences, but nothing of their own.
        """
        steps: list[Message] = []
        left: deque[Message] = deque()
        behind = {running}
        for message in self._waiting:
            may_run = is_step(message) and message.sequence_id not in behind and len(steps) < TOGETHER
            (steps if may_run else left).append(message)
            behind.add(message.sequence_id)
        if steps:
            self._waiting = left
            self._taken.set()
        return steps

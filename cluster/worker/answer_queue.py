"""AnswerQueue: what an answer tells its one reader, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from mlx_moe.decoding.request import FinishReason, GenerationStats, Token

MAX_UNREAD = 256
"""Tokens of one answer that its reader has not taken; then it waits, and the others go on."""

Progress = tuple[int, int]
"""Positions of the prompt that are done, and to do."""


@dataclass(frozen=True, slots=True)
class QueuedToken:
    """A token, and how the answer stood when it was written, which may be long before it is read."""

    token: Token
    stats: GenerationStats
    finish_reason: FinishReason | None


class AnswerQueue:
    """A queue for one reader; `on_room` is called when it may be given more again."""

    def __init__(self) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self._unread: deque[Progress | QueuedToken] = deque()
        self._last: Progress | QueuedToken | None = None
        self._error: Exception | None = None
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the reader is far behind."""
        return len(self._unread) >= MAX_UNREAD

    def put(self, item: Progress | QueuedToken) -> None:
        """Add an item, unless it equals the last one."""
        if item == self._last:
            return
        self._last = item
        self._unread.append(item)
        self._changed.set()

    def end(self, error: Exception | None = None) -> None:
        """Note that nothing more comes, because of an error if there is one."""
        self._error, self._ended = error, True
        self._changed.set()

    async def read(self) -> AsyncIterator[Progress | QueuedToken]:
        """Yield the items. Raises what it ended with."""
        while self._unread or not self._ended:
            if not self._unread:
                self._changed.clear()
                await self._changed.wait()
                continue
            was_full = self.is_full
            yield self._unread.popleft()
            if was_full:
                self.on_room()
        if self._error is not None:
            raise self._error

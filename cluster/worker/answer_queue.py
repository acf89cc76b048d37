"""AnswerQueue: a queue of an answer's tokens and progress for its one reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from mlx_moe.decoding.replay import PromptFrames
from mlx_moe.decoding.request import FinishReason, GenerationStats, Token

MAX_UNREAD = 256
"""Number of unread tokens from which an answer gets no turns until its reader continues.

gRPC has room for some 1,200 tokens more between coordinator and reader."""

UNREAD_S = 120.0
"""How long a reader that is so far behind may read nothing; then its answer ends."""

Progress = tuple[int, int]
"""Numbers of the prompt's positions: computed, and to compute in all."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The answer waits because of `cause`: weights are loaded (`total` is 0), or its positions are computed again."""

    cause: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class QueuedToken:
    """A token, and the answer's statistics when it was written, which may be long before it is read."""

    token: Token
    stats: GenerationStats
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """Tokens of the prompt, which were scored."""

    tokens: tuple[Token, ...]


Item = Progress | Waiting | PromptFrames | PromptTokens | QueuedToken


class AnswerQueue:
    """A queue for one reader.

    `on_room` is called when it has room again, `on_left` when it has been full for UNREAD_S and nothing was read.
    """

    def __init__(self) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self.on_left: Callable[[], None] = lambda: None
        self._leaving: asyncio.TimerHandle | None = None
        self._unread: deque[Item] = deque()
        self._last: Item | None = None
        self._error: Exception | None = None
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the reader is far behind."""
        return len(self._unread) >= MAX_UNREAD

    def put(self, item: Item) -> None:
        """Add an item, unless it equals the last one; it replaces unread progress of its kind."""
        if item == self._last:
            return
        self._last = item
        if self._unread and type(self._unread[-1]) is type(item) and not isinstance(item, QueuedToken | PromptTokens):
            self._unread.pop()
        self._unread.append(item)
        self._changed.set()
        if self.is_full and self._leaving is None:
            self._wait_for_reader()

    def end(self, error: Exception | None = None) -> None:
        """End the queue, with an error if there is one."""
        self._error, self._ended = error, True
        self._changed.set()
        self._wait_no_more()

    async def read(self) -> AsyncIterator[Item]:
        """Yield the items. Raises the error that ended the queue, if any."""
        while self._unread or not self._ended:
            if not self._unread:
                self._changed.clear()
                await self._changed.wait()
                continue
            was_full, item = self.is_full, self._unread.popleft()
            if was_full:
                self._wait_for_reader()
            yield item
            if was_full:
                self._wait_no_more()
                self.on_room()
        if self._error is not None:
            raise self._error

    def _wait_for_reader(self) -> None:
        """Call `on_left` if the reader does not come back in time."""
        self._wait_no_more()
        if not self._ended:
            self._leaving = asyncio.get_running_loop().call_later(UNREAD_S, self.on_left)

    def _wait_no_more(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

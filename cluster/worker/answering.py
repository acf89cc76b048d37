"""Answering: all answers that are being written, advanced in turns on the thread that computes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace

from cluster.timeline import Span, SpanKind
from cluster.worker.recording import Recording
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.request import FinishReason, GenerationStats, Token
from mlx_moe.errors import InvalidRequestError, MoeClusterError

MAX_UNREAD = 256
"""Tokens of one answer that its reader has not taken; then it waits, and the others go on."""

Progress = tuple[int, int]
"""Positions of the prompt that are done, and to do."""


@dataclass(frozen=True, slots=True)
class Written:
    """A token, and how the answer stood when it was written, which may be long before it is read."""

    token: Token
    stats: GenerationStats
    finish_reason: FinishReason | None


class News:
    """What an answer has to say, in order, to one reader; `on_room` is called when it may say more again."""

    def __init__(self) -> None:
        self.on_room: Callable[[], None] = lambda: None
        self._unread: deque[Progress | Written] = deque()
        self._last: Progress | Written | None = None
        self._error: Exception | None = None
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether the reader is far behind."""
        return len(self._unread) >= MAX_UNREAD

    def say(self, news: Progress | Written) -> None:
        """Add something, unless it was the last thing said."""
        if news == self._last:
            return
        self._last = news
        self._unread.append(news)
        self._changed.set()

    def end(self, error: Exception | None = None) -> None:
        """Say that nothing more comes, because of an error if there is one."""
        self._error, self._ended = error, True
        self._changed.set()

    async def read(self) -> AsyncIterator[Progress | Written]:
        """Yield what is said. Raises what it ended with."""
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


@dataclass(slots=True)
class _Answer:
    generation: Generation
    news: News
    is_waiting: bool = False


class Answering:
    """Takes turns: an answer advances by a token, or until a frame of it is under way, then the next one does.

    `flush` sends what a turn has left to be sent; before that no other turn begins, since computing would hold it up.
    """

    def __init__(self, recording: Recording, flush: Callable[[], Awaitable[None]]) -> None:
        self._recording = recording
        self._flush = flush
        self._answers: dict[str, _Answer] = {}
        self._turns: asyncio.Queue[str | None] = asyncio.Queue()  # None: something is to be sent, no more

    @property
    def active(self) -> int:
        """How many answers are being written."""
        return len(self._answers)

    def __contains__(self, session_id: str) -> bool:
        """Whether an answer of a session is being written, or will be."""
        return session_id in self._answers

    def begin(self, session_id: str, generation: Generation, news: News) -> None:
        """Let an answer take turns, and say in `news` what comes of it.

        Raises:
            InvalidRequestError: the session has one already.
        """
        if session_id in self._answers:
            raise InvalidRequestError("the conversation is being answered: wait for that answer, or end it first")
        self._answers[session_id] = _Answer(generation, news)
        news.on_room = lambda: self.wake(session_id)
        self._turns.put_nowait(session_id)

    def end(self, session_id: str, generation: Generation) -> None:
        """Close an answer where it stands. The session's next one may be under way already: it goes on."""
        answer = self._answers.get(session_id)
        if answer is not None and answer.generation is generation:
            del self._answers[session_id]
        generation.close()

    def cut_off(self, session_id: str, error: MoeClusterError | None = None) -> None:
        """End what a session is answering, if it is, and let the reader know."""
        if answer := self._answers.get(session_id):
            answer.news.end(error)
            self.end(session_id, answer.generation)

    def fail_all(self, error: MoeClusterError) -> None:
        """End every answer: nothing will come back any more."""
        for session_id in list(self._answers):
            self.cut_off(session_id, error)

    def wake(self, session_id: str) -> None:
        """Let an answer go on: a frame of it has come back, or its reader has caught up."""
        answer = self._answers.get(session_id)
        if answer is not None and answer.is_waiting:
            answer.is_waiting = False
            self._turns.put_nowait(session_id)

    def flush_soon(self) -> None:
        """Let what was left to be sent outside of a turn be sent too."""
        self._turns.put_nowait(None)

    async def run(self) -> None:
        """Take turns until cancelled."""
        while True:
            session_id = await self._turns.get()
            if session_id is not None and (answer := self._answers.get(session_id)):
                began_s = time.monotonic()
                self._advance(session_id, answer)
                self._recording.add(Span(SpanKind.TURN, session_id, 0, 0, 0, began_s, began_s, time.monotonic()))
            await self._flush()
            await asyncio.sleep(0)  # frames, readers and cancellations come between turns

    def _advance(self, session_id: str, answer: _Answer) -> None:
        if answer.news.is_full:
            answer.is_waiting = True
            return
        try:
            token = answer.generation.advance()
        except MoeClusterError as error:
            self.cut_off(session_id, error)
            return
        finally:
            self._wake_failed()
        if token is None:
            answer.is_waiting = True
            return
        generation = answer.generation
        answer.news.say(Written(token, replace(generation.stats), generation.finish_reason))
        if generation.finish_reason is None:
            self._turns.put_nowait(session_id)
        else:
            self.cut_off(session_id)

    def _wake_failed(self) -> None:
        """Let those that gave way to this one say so: nothing of theirs comes back any more."""
        for session_id, answer in self._answers.items():
            if answer.generation.failure is not None:
                self.wake(session_id)

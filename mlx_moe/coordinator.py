"""Coordinator: owns the tokens of requests. It embeds, sends frames down the link, and samples what comes back.

Knows nothing of text, and nothing of where the stages are. Its generators yield None while a frame is under way, so
that many requests may run on one thread.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn, cast

import mlx.core as mx

from mlx_moe.chunking import chunk_end
from mlx_moe.errors import InsufficientMemoryError, InvalidRequestError, NumericsError
from mlx_moe.frame import Frame, FrameKind
from mlx_moe.head import Head
from mlx_moe.kv_budget import KVBudget
from mlx_moe.link import Link
from mlx_moe.request import Request
from mlx_moe.sampling import Sampler
from mlx_moe.session import Session

if TYPE_CHECKING:
    from mlx_moe.generation import Generation

CLEAR_CACHE_EVERY = 256
"""Tokens after which MLX gives freed buffers back."""

RESERVE = 1024
"""Positions reserved for an answer without max_tokens; it may become longer while there is room."""


class Coordinator:
    """Drives the stages behind `link` for requests of many sessions, whose KV caches take at most `kv_positions`."""

    def __init__(self, head: Head, link: Link, vocab_size: int, kv_positions: int | None = None) -> None:
        self.budget = KVBudget(kv_positions)
        self._head = head
        self._link = link
        self._vocab_size = vocab_size
        self._sessions: dict[str, Session] = {}

    def new_session(self) -> Session:
        """Return a session of its own KV caches."""
        return Session(self._release)

    @contextmanager
    def answering(self, session: Session, answer: Generation, limit: int) -> Iterator[None]:
        """Reserve the KV cache of an answer of up to `limit` tokens; at the end drop its frames, keep its session.

        Raises:
            InvalidRequestError: the session is answering already, or the KV cache cannot be so large.
            InsufficientMemoryError: other requests have the memory.
        """
        if session.answer is not None:
            raise InvalidRequestError("the session is answering another request: close that one, or open a session")
        request = answer.request
        reserved = limit if request.max_tokens is not None else min(limit, RESERVE)
        self._give_way(self.budget.admit(session.id, len(request.input_ids) + reserved))
        self._sessions[session.id] = session
        session.answer = answer
        try:
            yield
        finally:
            session.answer = None
            self._link.cancel(session.id)
            self.budget.rest(session.id)

    def prefill(
        self, request: Request, session: Session, progress: Callable[[int, int], None] | None = None
    ) -> Generator[None, None, mx.array]:
        """Run the prompt's new positions; return the hidden state `[1, D]` of its last one.

        `progress` is called with the positions done and the positions to do.
        """
        input_ids = request.input_ids
        self._reuse(session, input_ids)
        reused = sent = session.reused
        ends: deque[int] = deque()  # of the frames in flight
        while True:
            while sent < len(input_ids) and len(ends) < self._link.frames_in_flight:
                end = min(chunk_end(sent), len(input_ids))
                embedded = self._head.embed(mx.array(input_ids[sent:end]))
                self._send(session, Frame(session.id, sent, embedded, FrameKind.PREFILL, outputs=1))
                ends.append(end)
                sent = end
            frame = yield from self._receive(session)
            session.keep(input_ids[len(session.token_ids) : ends.popleft()])
            if progress is not None:
                progress(len(session.token_ids) - reused, len(input_ids) - reused)
            if len(session.token_ids) == len(input_ids):
                return frame.hidden_states

    def decode(
        self, hidden_states: mx.array, request: Request, session: Session, seed: int, limit: int
    ) -> Generator[tuple[int, float] | None]:
        """Yield up to `limit` tokens with their log-probabilities, from the last position's hidden state `[1, D]`.

        The next position's frame is sent before a token is read: on one machine its graph is built, in a pipeline
        its frame is on its way, while the caller handles the token.
        """
        sampler = Sampler(request.sampling, seed, self._vocab_size, request.input_ids)
        position = len(request.input_ids)
        sent: Frame | None = None
        for n in range(limit):
            token, logprob = sampler(self._head.logits(hidden_states)[0], position)
            mx.async_eval(token, logprob)
            last, sent = sent, None
            if n + 1 < limit:
                embedded = self._head.embed(token.reshape(1))
                sent = Frame(session.id, position, embedded, FrameKind.DECODE)
                self._send(session, sent)
            token_id, token_logprob = cast(int, token.item()), cast(float, logprob.item())
            if not math.isfinite(token_logprob):
                yield from self._blame(last, session)
            yield token_id, token_logprob
            if sent is not None:
                hidden_states = (yield from self._receive(session)).hidden_states
                session.keep([token_id])
                position += 1
            if n % CLEAR_CACHE_EVERY == CLEAR_CACHE_EVERY - 1:
                mx.clear_cache()

    def _send(self, session: Session, frame: Frame) -> None:
        self._give_way(self.budget.use(session.id, frame.position + frame.hidden_states.shape[0]))
        self._link.send(frame)

    def _receive(self, session: Session) -> Generator[None, None, Frame]:
        while (frame := self._link.receive(session.id)) is None:
            yield
        return frame

    def _reuse(self, session: Session, input_ids: tuple[int, ...]) -> None:
        """Let a session begin with what it keeps of a prompt, or with what another one keeps, if that is more."""
        session.rewind(session.shared(input_ids))
        lender = max(self._sessions.values(), key=lambda other: other.lend(input_ids))
        lent = lender.lend(input_ids)
        if lent > len(session.token_ids):
            self._link.fork(lender.id, session.id, lent)
            session.token_ids[:] = input_ids[:lent]
            session.in_whole_chunks = lent
        session.reused = len(session.token_ids)

    def _give_way(self, session_ids: Iterable[str]) -> None:
        for session_id in session_ids:
            session = self._sessions[session_id]
            if session.answer is not None:
                session.answer.fail(
                    InsufficientMemoryError(
                        f"the answer was given up after {session.answer.stats.generated_tokens} tokens: older requests "
                        f"took the last of {self.budget.positions} positions of KV cache; try again when one has ended"
                    )
                )
            self._release(session)

    def _release(self, session: Session) -> None:
        """Free a session's KV caches everywhere; its next request starts from nothing."""
        self._link.release(session.id)
        self.budget.release(session.id)
        self._sessions.pop(session.id, None)
        session.rewind(0)

    def _blame(self, frame: Frame | None, session: Session) -> Generator[None, None, NoReturn]:
        """Raise NumericsError that names the layer whose output is not finite, or else the head."""
        if frame is not None:
            session.rewind(frame.position)
            self._link.cancel(session.id)
            self._link.send(replace(frame, checked=True))
            yield from self._receive(session)
        raise NumericsError("the output head's logits are not finite, although its input is")

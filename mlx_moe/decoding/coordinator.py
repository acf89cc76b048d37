"""Coordinator: owns the tokens of requests. It embeds, sends frames down the link, and samples what comes back.

Knows nothing of text, and nothing of where the stages are. Its generators yield None while a frame is under way, so
that many requests may run on one thread: they go on when a frame has left or come back.

Where stages would idle it drafts: the frames of tokens that may come next follow the newest token's. Each position is
computed alone by the same kernels, and its token sampled from its own logits, so drafts change no bit of the answer.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn, cast

import mlx.core as mx

from mlx_moe.decoding.chunking import DEFAULT_RULE, ChunkRule, cut
from mlx_moe.decoding.drafting import Drafter
from mlx_moe.decoding.kv_budget import KVBudget
from mlx_moe.decoding.request import GenerationStats, Request
from mlx_moe.decoding.sampling import KEPT_POSITIONS, Sampler
from mlx_moe.decoding.session import Session
from mlx_moe.decoding.speculation import Acceptance, Speculation, worth_of
from mlx_moe.errors import InsufficientMemoryError, InvalidRequestError, NumericsError
from mlx_moe.pipeline.embedding_and_lm_head import EmbeddingAndLMHead
from mlx_moe.pipeline.frame import Frame, FrameKind
from mlx_moe.pipeline.link import Link

if TYPE_CHECKING:
    from mlx_moe.decoding.generation import Generation

CLEAR_CACHE_EVERY = 256
"""Tokens after which MLX gives freed buffers back."""

Progress = Callable[[int, int], None]

RESERVE = 1024
"""Positions reserved for an answer without max_tokens; it may become longer while there is room."""


class Coordinator:
    """Drives the stages behind `link` for requests of many sessions, whose KV caches take at most `kv_positions`.

    `new_drafter` creates a session's drafter; it is not used with a single stage, which would never idle.
    `chunks` is how prompts are cut.
    """

    def __init__(
        self,
        head: EmbeddingAndLMHead,
        link: Link,
        vocab_size: int,
        kv_positions: int | None = None,
        new_drafter: Callable[[], Drafter] | None = None,
        chunks: ChunkRule = DEFAULT_RULE,
    ) -> None:
        self.budget = KVBudget(kv_positions)
        self.acceptance = Acceptance()
        self._head = head
        self._link = link
        self._vocab_size = vocab_size
        self._chunks = chunks
        self._new_drafter = new_drafter if link.n_stages > 1 else None
        self._sessions: dict[str, Session] = {}

    def new_session(self) -> Session:
        """Return a session of its own KV caches."""
        return Session(self._release, self._new_drafter() if self._new_drafter is not None else None)

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
        self, request: Request, session: Session, stats: GenerationStats, progress: Progress | None = None
    ) -> Generator[None, None, mx.array]:
        """Run the prompt's new positions; return the hidden state `[1, D]` of its last one.

        `progress` is called with the positions done and the positions to do, each time a chunk is done or waited for.
        """
        input_ids = request.input_ids
        stats.chunk_length = self._reuse(session, input_ids)
        stats.cached_tokens = reused = sent = session.reused
        outputs = None if session.drafter is not None and session.drafter.observes else 1
        planned = deque(cut(sent, len(input_ids), stats.chunk_length))
        ends: deque[int] = deque()  # of the frames in flight
        while True:
            if planned and len(ends) < self._link.frames_in_flight:
                end = planned.popleft()
                embedded = self._head.embed(mx.array(input_ids[sent:end]))
                self._send(session, Frame(session.id, sent, embedded, FrameKind.PREFILL, outputs=outputs))
                ends.append(end)
                sent = end
                if self._link.frames_in_flight > 1:
                    yield  # so that this frame is sent before the next chunk is computed
            frame = self._link.receive(session.id)
            if frame is None:
                if not planned or len(ends) == self._link.frames_in_flight:
                    if not planned:
                        self._catch_up(session)
                    if progress is not None:
                        progress(len(session.token_ids) - reused, len(input_ids) - reused)
                    yield
                continue
            self._keep(session, input_ids[len(session.token_ids) : ends.popleft()], frame.hidden_states)
            if progress is not None:
                progress(len(session.token_ids) - reused, len(input_ids) - reused)
            if len(session.token_ids) == len(input_ids):
                return frame.hidden_states[-1:]

    def decode(
        self,
        hidden_states: mx.array,
        request: Request,
        session: Session,
        seed: int,
        limit: int,
        stats: GenerationStats,
    ) -> Generator[tuple[int, float] | None]:
        """Yield up to `limit` tokens with their log-probabilities, from the last position's hidden state `[1, D]`.

        A token's frame is sent before the token is read, unless a draft is in flight in its place: on one machine its
        graph is built, in a pipeline it is on its way, while the caller handles the token.
        """
        sampler = Sampler(request.sampling, seed, self._vocab_size, request.input_ids)
        speculation = Speculation(self.acceptance, worth_of(self._link.n_stages), stats)
        start = len(request.input_ids)
        for position in range(start, start + limit):
            token, logprob = sampler(self._head.logits(hidden_states)[0], position)
            mx.async_eval(token, logprob)
            is_last = position == start + limit - 1
            is_drafted = bool(speculation.token_ids)
            if not is_last and not is_drafted:
                self._send_token(session, position, token)
            token_id, token_logprob = cast(int, token.item()), cast(float, logprob.item())
            if not math.isfinite(token_logprob):
                yield from self._blame(session, position - 1, is_prompt=position == start)
            if not speculation.settle(token_id) and is_drafted:
                self._send_token(session, position, token)
            yield token_id, token_logprob
            if is_last:
                return
            while (frame := self._link.receive(session.id)) is None:
                self._draft(session, sampler, speculation, token_id, end=start + limit - 1)
                yield None
            hidden_states = frame.hidden_states
            self._keep(session, [token_id], hidden_states)
            if (position - start) % CLEAR_CACHE_EVERY == CLEAR_CACHE_EVERY - 1:
                mx.clear_cache()

    def _draft(self, session: Session, sampler: Sampler, speculation: Speculation, token_id: int, end: int) -> None:
        """Send one more draft after the newest token, `token_id`, if a stage would idle; none from `end` on."""
        in_flight = [token_id, *speculation.token_ids]
        position = len(session.token_ids) + len(in_flight)
        has_room = position < min(end, self.budget.reserved(session.id))  # a draft takes no other session's
        if session.drafter is None or not has_room or not speculation.wants_draft(self._frames_for_each()):
            return
        draft = session.drafter.draft(
            session.token_ids, in_flight, lambda logits: cast(int, sampler(logits, position)[0].item())
        )
        if draft is not None:
            speculation.add(draft)
            self._send_token(session, position, mx.array(draft), FrameKind.DRAFT)

    def _catch_up(self, session: Session) -> None:
        """Let the drafter process queued hidden states; called while the first stage is idle."""
        if session.drafter is not None and session.drafter.observes and self._frames_for_each() > 1:
            session.drafter.catch_up(session.token_ids)

    def _frames_for_each(self) -> int:
        """Return how many frames of each answer may be in flight: with as many answers as stages, one."""
        n_answers = sum(session.answer is not None for session in self._sessions.values())
        return min(self._link.n_stages // n_answers, KEPT_POSITIONS)

    def _send_token(self, session: Session, position: int, token: mx.array, kind: FrameKind = FrameKind.DECODE) -> None:
        self._send(session, Frame(session.id, position, self._head.embed(token.reshape(1)), kind))

    def _keep(self, session: Session, token_ids: Sequence[int], hidden_states: mx.array) -> None:
        session.keep(token_ids)
        if session.drafter is not None and session.drafter.observes:
            session.drafter.observe(hidden_states, session.token_ids)

    def _send(self, session: Session, frame: Frame) -> None:
        self._give_way(self.budget.use(session.id, frame.position + frame.hidden_states.shape[0]))
        self._link.send(frame)

    def _receive(self, session: Session) -> Generator[None, None, Frame]:
        while (frame := self._link.receive(session.id)) is None:
            yield
        return frame

    def _reuse(self, session: Session, input_ids: tuple[int, ...]) -> int:
        """Let a session begin with the prefix that it keeps of a prompt, or with a longer one borrowed from another.

        Returns:
            The chunk length for the rest of the prompt. A fresh prompt is chunked by its full length even if a prefix
            is borrowed, so that its result does not depend on what was borrowed.
        """
        session.rewind(session.shared(input_ids))
        length = self._chunks.length(len(input_ids))
        lender = max(self._sessions.values(), key=lambda other: other.lend(input_ids, length))
        lent, kept = lender.lend(input_ids, length), len(session.token_ids)
        if lent > kept:
            self._link.fork(lender.id, session.id, lent)
            session.begin_as(lender, lent)
        elif kept:
            length = self._chunks.length(len(input_ids) - kept)
        else:
            session.chunk_length = length
        session.reused = len(session.token_ids)
        return length

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

    def _blame(self, session: Session, position: int, *, is_prompt: bool) -> Generator[None, None, NoReturn]:
        """Raise NumericsError that names the layer whose output for `position` is not finite, or else the head."""
        if not is_prompt:  # whose frames were checked
            token_id = session.token_ids[position]
            session.rewind(position)
            self._link.cancel(session.id)
            embedded = self._head.embed(mx.array([token_id]))
            self._link.send(Frame(session.id, position, embedded, FrameKind.DECODE, checked=True))
            yield from self._receive(session)
        raise NumericsError("the output head's logits are not finite, although its input is")

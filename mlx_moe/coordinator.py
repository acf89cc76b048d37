"""Coordinator: owns the tokens of a request. It embeds, sends frames down the link, and samples what comes back.

Knows nothing of text, and nothing of where the stages are.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import cast

import mlx.core as mx

from mlx_moe.errors import NumericsError
from mlx_moe.frame import Frame, FrameKind
from mlx_moe.head import Head
from mlx_moe.link import Link
from mlx_moe.request import Request
from mlx_moe.sampling import Sampler

PREFILL_CHUNK = 512
"""Positions of a prefill frame; chunks end at its multiples, so a prompt is cut alike whatever was reused."""

CLEAR_CACHE_EVERY = 256
"""Tokens after which MLX gives freed buffers back."""


class Session:
    """A conversation's KV caches on the stages, kept between requests until it is closed.

    `token_ids` are those whose positions are known to be kept, in order from position 0; `reused` of them served the
    last request.
    """

    def __init__(self, link: Link) -> None:
        self.id = uuid.uuid4().hex
        self.token_ids: list[int] = []
        self.reused = 0
        self._link = link

    def close(self) -> None:
        """Free its KV caches everywhere."""
        self._link.release(self.id)
        self.token_ids.clear()

    def reuse(self, input_ids: Sequence[int]) -> int:
        """Keep the longest prefix that `input_ids` share, but for their last position; return its length."""
        length = 0
        for kept, wanted in zip(self.token_ids, input_ids[:-1], strict=False):
            if kept != wanted:
                break
            length += 1
        del self.token_ids[length:]
        self.reused = length
        return length


class Coordinator:
    """Drives the stages behind `link` for one request after another."""

    def __init__(self, head: Head, link: Link, vocab_size: int) -> None:
        self._head = head
        self._link = link
        self._vocab_size = vocab_size

    def new_session(self) -> Session:
        """Return a session of its own KV caches."""
        return Session(self._link)

    def prefill(
        self, request: Request, session: Session, progress: Callable[[int, int], None] | None = None
    ) -> mx.array:
        """Run the prompt's new positions; return the hidden state `[1, D]` of its last one.

        `progress` is called with the positions done and the positions to do.
        """
        input_ids = request.input_ids
        position = reused = session.reuse(input_ids)
        hidden_states = None
        while position < len(input_ids):
            end = min((position // PREFILL_CHUNK + 1) * PREFILL_CHUNK, len(input_ids))
            chunk = input_ids[position:end]
            embedded = self._head.embed(mx.array(chunk))
            self._link.send(Frame(session.id, position, embedded, FrameKind.PREFILL, outputs=1))
            hidden_states = self._link.receive(session.id).hidden_states
            session.token_ids.extend(chunk)
            position = end
            if progress is not None:
                progress(position - reused, len(input_ids) - reused)
        assert hidden_states is not None  # at least the last position was run
        return hidden_states

    def decode(
        self, hidden_states: mx.array, request: Request, session: Session, seed: int, limit: int
    ) -> Generator[tuple[int, float]]:
        """Yield up to `limit` tokens with their log-probabilities, from the last position's hidden state `[1, D]`.

        The next position's frame is sent before a token is read: on one machine its graph is built, in a pipeline
        its frame is on its way, while the caller handles the token.
        """
        sampler = Sampler(request.sampling, seed, self._vocab_size, request.input_ids)
        position = len(request.input_ids)
        sent: Frame | None = None
        try:
            for n in range(limit):
                token, logprob = sampler(self._head.logits(hidden_states)[0], position)
                mx.async_eval(token, logprob)
                last, sent = sent, None
                if n + 1 < limit:
                    embedded = self._head.embed(token.reshape(1))
                    sent = Frame(session.id, position, embedded, FrameKind.DECODE)
                    self._link.send(sent)
                token_id, token_logprob = cast(int, token.item()), cast(float, logprob.item())
                if not math.isfinite(token_logprob):
                    self._blame(last)
                yield token_id, token_logprob
                if sent is not None:
                    hidden_states = self._link.receive(session.id).hidden_states
                    session.token_ids.append(token_id)
                    position += 1
                if n % CLEAR_CACHE_EVERY == CLEAR_CACHE_EVERY - 1:
                    mx.clear_cache()
        finally:
            self._link.cancel(session.id)

    def _blame(self, frame: Frame | None) -> None:
        """Raise NumericsError that names the layer whose output is not finite, or else the head."""
        if frame is not None:
            self._link.cancel(frame.request_id)
            self._link.send(replace(frame, checked=True))
        raise NumericsError("the output head's logits are not finite, although its input is")

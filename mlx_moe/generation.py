"""Generation: one answer as it is written, from the coordinator's tokens to text, up to the reason it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType

from mlx_moe.coordinator import Coordinator, Session
from mlx_moe.detokenizer import Detokenizer
from mlx_moe.request import FinishReason, GenerationStats, Request, Token
from mlx_moe.stopping import LoopDetector, StopStrings
from mlx_moe.tokenizer import Tokenizer


class Generation:
    """An iterator of tokens; `finish_reason` is None until the answer ended.

    The prompt runs with the first `next`. `close` ends the answer early and keeps what was written.
    """

    def __init__(
        self,
        coordinator: Coordinator,
        tokenizer: Tokenizer,
        request: Request,
        session: Session,
        *,
        seed: int,
        limit: int,
        close_session: bool,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.request = request
        self.seed = seed
        self.finish_reason: FinishReason | None = None
        self.stats = GenerationStats(prompt_tokens=len(request.input_ids))
        self.text = ""
        self._coordinator = coordinator
        self._session = session
        self._limit = limit
        self._close_session = close_session
        self._progress = progress
        self._answer = _AnswerText(tokenizer, request)
        self._tokens = self._run()

    def __iter__(self) -> Iterator[Token]:
        """Return itself."""
        return self

    def __next__(self) -> Token:
        """Return the next token. Raises StopIteration when the answer ended."""
        return next(self._tokens)

    def __enter__(self) -> Generation:
        """Return itself; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the answer now. Its session, if it has one, can go on from what was written."""
        if self.finish_reason is None:
            self.finish_reason = "cancelled"
        self._tokens.close()

    def _run(self) -> Generator[Token]:
        started = time.perf_counter()
        try:
            hidden_states = self._coordinator.prefill(self.request, self._session, self._progress)
            self.stats.cached_tokens = self._session.reused
            self.stats.prefill_s = time.perf_counter() - started
            tokens = self._coordinator.decode(hidden_states, self.request, self._session, self.seed, self._limit)
            for count, (token_id, logprob) in enumerate(tokens, start=1):
                text, reason = self._answer.add(token_id, last=count == self._limit)
                self._count(count, time.perf_counter() - started)
                self.text += text
                self.finish_reason = reason
                yield Token(token_id, text, logprob, self.stats.prompt_tokens + count - 1)
                if reason is not None:
                    break
            tokens.close()
        except KeyboardInterrupt:
            self.finish_reason = "cancelled"
            raise
        finally:
            if self._close_session:
                self._session.close()

    def _count(self, generated_tokens: int, elapsed_s: float) -> None:
        stats = self.stats
        if generated_tokens == 1:
            stats.ttft_s = elapsed_s
        stats.generated_tokens = generated_tokens
        stats.decode_s = elapsed_s - stats.ttft_s
        stats.total_s = elapsed_s


class _AnswerText:
    """Turns token ids into text that may be shown, and says when the answer is at its end."""

    def __init__(self, tokenizer: Tokenizer, request: Request) -> None:
        self._detokenizer: Detokenizer = tokenizer.detokenizer()
        self._stops = StopStrings(request.stop)
        self._loops = LoopDetector() if request.detect_loops else None
        self._eos: frozenset[int] = frozenset() if request.ignore_eos else tokenizer.eos_token_ids

    def add(self, token_id: int, *, last: bool) -> tuple[str, FinishReason | None]:
        """Return what a token adds to the shown text, and why the answer ends with it, if it does."""
        is_eos = token_id in self._eos
        text, stopped = ("", False) if is_eos else self._stops.feed(self._detokenizer.add(token_id))
        if stopped:
            return text, "stop"
        looping = self._loops is not None and self._loops.feed(token_id)
        reason: FinishReason | None = "stop" if is_eos else "loop" if looping else "length" if last else None
        if reason is None:
            return text, None
        tail, stopped = self._stops.feed(self._detokenizer.finish())
        return text + tail + ("" if stopped else self._stops.finish()), "stop" if stopped else reason

"""Generation: one answer as it is written, from the coordinator's tokens to text, up to the reason it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from types import TracebackType

from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token
from mlx_moe.decoding.session import Session
from mlx_moe.errors import MoeClusterError
from mlx_moe.text.detokenizer import Detokenizer
from mlx_moe.text.stopping import LoopDetector, StopStrings
from mlx_moe.text.tokenizer import Tokenizer


class Generation:
    """An iterator of tokens; `finish_reason` is None until the answer ended.

    The prompt runs with the first `next`. `close` ends the answer early and keeps what was written. Where frames take
    their time, a loop over many answers calls `advance` instead of `next`.
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
        self.failure: MoeClusterError | None = None
        self._steps = self._run()

    def __iter__(self) -> Iterator[Token]:
        """Return itself."""
        return self

    def __next__(self) -> Token:
        """Return the next token. Raises StopIteration when the answer ended, and what `advance` raises."""
        while (token := self.advance()) is None:
            pass
        return token

    def advance(self) -> Token | None:
        """Run until the next token; return None where a frame is under way: call again when one has left or come back.

        Once `finish_reason` is set the answer is whole, and its session free for the next.

        Raises:
            StopIteration: the answer ended before.
            MoeClusterError: it failed; `text` keeps what was written.
        """
        if self.failure is not None:
            raise self.failure
        return next(self._steps)

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
        self._steps.close()

    def fail(self, error: MoeClusterError) -> None:
        """End the answer from outside, by an error that `advance` raises."""
        self.failure = error
        self._steps.close()

    def _run(self) -> Generator[Token | None]:
        yield (yield from self._write())  # the last token, when all is given back

    def _write(self) -> Generator[Token | None, None, Token]:
        """Yield the answer but for its last token, which is returned."""
        started = time.perf_counter()
        coordinator, session, request = self._coordinator, self._session, self.request
        try:
            with coordinator.answering(session, self, self._limit):
                hidden_states = yield from coordinator.prefill(request, session, self.stats, self._progress)
                self.stats.prefill_s = time.perf_counter() - started
                steps = coordinator.decode(hidden_states, request, session, self.seed, self._limit, self.stats)
                while True:
                    step = next(steps)
                    token = None if step is None else self._token(*step, started)
                    if token is not None and self.finish_reason is not None:
                        return token
                    yield token
        except KeyboardInterrupt:
            self.finish_reason = "cancelled"
            raise
        finally:
            if self._close_session:
                session.close()

    def _token(self, token_id: int, logprob: float, started: float) -> Token:
        """Add a token to the answer; set why it ends with it, if it does."""
        stats = self.stats
        count = stats.generated_tokens + 1
        text, self.finish_reason = self._answer.add(token_id, last=count == self._limit)
        self.text += text
        stats.total_s = time.perf_counter() - started
        if count == 1:
            stats.ttft_s = stats.total_s
        stats.generated_tokens = count
        stats.decode_s = stats.total_s - stats.ttft_s
        return Token(token_id, text, logprob, stats.prompt_tokens + count - 1)


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

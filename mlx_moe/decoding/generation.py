"""Generation: an iterator over the tokens of one answer, which are computed in this process when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType

from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.engine import Engine
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token
from mlx_moe.errors import MoeClusterError


class Generation:
    """An iterator of tokens; `finish_reason` is None until the answer has ended.

    The first `next` computes the prompt. `close` ends the answer early and keeps its tokens. A loop over several
    answers calls `advance` instead of `next`. With `close_session` its sequence is freed at the end.
    """

    def __init__(
        self,
        engine: Engine,
        writer: AnswerWriter,
        *,
        close_session: bool,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._engine = engine
        self._writer = writer
        self._close_session = close_session
        self._progress = progress
        self._is_begun = self._is_over = False

    @property
    def request(self) -> Request:
        """The request that is answered."""
        return self._writer.request

    @property
    def seed(self) -> int:
        """The seed of its sampling."""
        return self._writer.seed

    @property
    def stats(self) -> GenerationStats:
        """Counts and seconds so far."""
        return self._writer.stats

    @property
    def text(self) -> str:
        """The text so far."""
        return self._writer.text

    @property
    def prompt_tokens(self) -> list[Token]:
        """The prompt's tokens, if its log-probabilities were asked for; complete with the first token."""
        return [token for _, token in sorted(self._writer.prompt_tokens.items())]

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended; None before its end."""
        return self._writer.finish_reason

    def __iter__(self) -> Iterator[Token]:
        """Return itself."""
        return self

    def __next__(self) -> Token:
        """Return the next token. Raises StopIteration at the end of the answer, and what `advance` raises."""
        while (token := self.advance()) is None:
            pass
        return token

    def advance(self) -> Token | None:
        """Take one step; return its token, None if a frame is in flight.

        Once `finish_reason` is set the answer is complete, and its session is free for the next request.

        Raises:
            StopIteration: the answer has ended already.
            MoeClusterError: it failed; `text` keeps the text so far.
        """
        try:
            token = self._step()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                self._writer.finish_reason = "cancelled"
            self._end()
            raise
        if self.finish_reason is not None:
            self._end()
        return token

    def _step(self) -> Token | None:
        if self._writer.failure is not None:
            raise self._writer.failure
        if self._is_over or self.finish_reason is not None:
            raise StopIteration
        if not self._is_begun:
            self._engine.begin(self._writer)
            self._is_begun = True
        is_prompt = not self.stats.generated_tokens
        token = self._engine.step(self._writer.sequence)
        failure: MoeClusterError | None = self._writer.failure
        if failure is not None:
            raise failure
        if is_prompt and self._progress is not None:
            self._progress(*self._writer.prefill_progress)
        return token

    def __enter__(self) -> Generation:
        """Return itself; the end of the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the answer now. Its session, if it has one, can continue after the tokens written so far."""
        if self._writer.finish_reason is None:
            self._writer.finish_reason = "cancelled"
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            if self._is_begun:
                self._engine.end(self._writer)
            if self._close_session:
                self._engine.release(self._writer.sequence)

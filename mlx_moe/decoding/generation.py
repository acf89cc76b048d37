"""Generation: an iterator over the tokens of one answer, written in this process as its reader asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType

from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.engine import Engine
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token
from mlx_moe.errors import MoeClusterError


class Generation:
    """An iterator of tokens; `finish_reason` is None until the answer ended.

    The prompt runs with the first `next`. `close` ends the answer early and keeps what was written. A loop over many
    answers calls `advance` instead of `next`. With `close_session` its sequence is freed with it.
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
        """What was asked."""
        return self._writer.request

    @property
    def seed(self) -> int:
        """What it is sampled with."""
        return self._writer.seed

    @property
    def stats(self) -> GenerationStats:
        """Counts and seconds so far."""
        return self._writer.stats

    @property
    def text(self) -> str:
        """What was written so far."""
        return self._writer.text

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended."""
        return self._writer.finish_reason

    def __iter__(self) -> Iterator[Token]:
        """Return itself."""
        return self

    def __next__(self) -> Token:
        """Return the next token. Raises StopIteration when the answer ended, and what `advance` raises."""
        while (token := self.advance()) is None:
            pass
        return token

    def advance(self) -> Token | None:
        """Take one step; return the token that it wrote, None where a frame is under way.

        Once `finish_reason` is set the answer is whole, and its session free for the next.

        Raises:
            StopIteration: the answer ended before.
            MoeClusterError: it failed; `text` keeps what was written.
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
        """Return itself; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """End the answer now. Its session, if it has one, can go on from what was written."""
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

"""AnswerWriter: turns the token ids of one answer into text, and decides when and why the answer ends."""

from __future__ import annotations

import time
from collections.abc import Collection

from mlx_moe.decoding.coordinator import Scored, Top, Written
from mlx_moe.decoding.replay import Replay
from mlx_moe.decoding.request import FinishReason, GenerationStats, Request, Token, TokenLogprob
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.errors import MoeClusterError
from mlx_moe.text.detokenizer import Detokenizer
from mlx_moe.text.stopping import LoopDetector, StopStrings
from mlx_moe.text.tokenizer import Tokenizer


class AnswerWriter:
    """Turns the coordinator's token ids for a sequence into tokens with text, and measures their time.

    `finish_reason` is None until the answer has ended; `failure` is the error that ended it; `text` is the text so far;
    `prompt_tokens` are the prompt's by position, if they were to be scored.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        sequence: Sequence,
        request: Request,
        *,
        seed: int,
        limit: int,
        replay: Replay | None = None,
    ) -> None:
        self.sequence = sequence
        self.request = request
        self.seed = seed
        self.stats = GenerationStats(prompt_tokens=len(request.input_ids))
        self.finish_reason: FinishReason | None = None
        self.failure: MoeClusterError | None = None
        self.text = ""
        self.prompt_tokens: dict[int, Token] = {}
        self._tokenizer = tokenizer
        self._limit = limit
        self._shown = _ShownText(tokenizer, request)
        self._began = 0.0
        self._is_resumed = False
        self._replay = replay
        if replay is not None:
            self._read(replay.answer_ids)

    @classmethod
    def resumed(cls, tokenizer: Tokenizer, sequence: Sequence) -> AnswerWriter:
        """Return the writer of an answer that began elsewhere and continues on stages without its KV caches."""
        writer = cls(tokenizer, sequence, sequence.asked, seed=sequence.seed, limit=sequence.limit)
        writer.stats = sequence.stats
        writer._is_resumed = True
        writer._read(sequence.answer_ids)
        return writer

    def begin(self) -> None:
        """Start the sequence's answer, or restart it if it was resumed; the answer's time counts from now on."""
        self._began = time.perf_counter() - self.stats.total_s
        if self._is_resumed:
            self.sequence.restart()
        else:
            self.sequence.ask(self.request, self.seed, self._limit, self.stats)
            if self._replay is not None:
                self.sequence.go_on(self._replay)

    def _read(self, answer_ids: Collection[int]) -> None:
        """Read the tokens that were written elsewhere."""
        self.text = "".join(self._shown.add(token_id, last=False)[0] for token_id in answer_ids)
        self.stats.generated_tokens = len(answer_ids)

    @property
    def prefill_progress(self) -> tuple[int, int]:
        """The number of the prompt's positions that have been computed, and that have to be computed in all.

        Reused positions that are computed again do not count.
        """
        n_prompt, reused = len(self.request.input_ids), self.sequence.reused
        return max(0, min(len(self.sequence.token_ids), n_prompt) - reused), n_prompt - reused

    def write(self, written: Written) -> Token:
        """Add a token to the answer; set `finish_reason` if the answer ends with it."""
        stats, count = self.stats, self.stats.generated_tokens + 1
        text, self.finish_reason = self._shown.add(written.token_id, last=count == self._limit)
        self.text += text
        stats.total_s = time.perf_counter() - self._began
        if count == 1:
            stats.ttft_s = stats.prefill_s = stats.total_s
        stats.generated_tokens = count
        stats.decode_s = stats.total_s - stats.ttft_s
        position = stats.prompt_tokens + count - 1
        return self._token(written.token_id, text, written.logprob, position, written.top)

    def score(self, scored: Scored) -> tuple[Token, ...]:
        """Return tokens of the prompt that were scored; `prompt_tokens` has all of them."""
        ids = self.request.input_ids[scored.position :]
        rows = enumerate(zip(ids, scored.logprobs, scored.tops, strict=False), scored.position)
        tokens = tuple(self._token(token_id, "", logprob, position, top) for position, (token_id, logprob, top) in rows)
        self.prompt_tokens.update((token.position, token) for token in tokens)
        return tokens

    def _token(self, token_id: int, text: str, logprob: float, position: int, top: Top) -> Token:
        piece = self._tokenizer.piece
        told = tuple(TokenLogprob(other, piece(other), value) for other, value in top)
        return Token(token_id, text, logprob, position, piece(token_id), told)


class _ShownText:
    """Turns token ids into text that may be shown, and detects the end of the answer."""

    def __init__(self, tokenizer: Tokenizer, request: Request) -> None:
        self._detokenizer: Detokenizer = tokenizer.detokenizer()
        self._stops = StopStrings(request.stop)
        self._loops = LoopDetector() if request.detect_loops else None
        self._eos: frozenset[int] = frozenset() if request.ignore_eos else tokenizer.eos_token_ids

    def add(self, token_id: int, *, last: bool) -> tuple[str, FinishReason | None]:
        """Return the text that a token adds, and the reason if the answer ends with it, else None."""
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

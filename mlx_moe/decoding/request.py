"""Request: a prompt and how to answer it; Token and GenerationStats: the answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from mlx_moe.errors import InvalidRequestError
from mlx_moe.sampling_params import SamplingParams, is_integer, shown
from mlx_moe.text.grammar import Grammar

MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 256
MAX_TOP_LOGPROBS = 20

FinishReason = Literal["stop", "length", "loop", "cancelled"]
"""stop: the model ended its turn or wrote a stop string. length: max_tokens was reached or the context is full.
loop: the answer repeated itself. cancelled: the reader closed it."""


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt in token ids, and how to answer it.

    Attributes:
        max_tokens: None: no limit but the context.
        stop: strings that end the answer; they are not part of it.
        ignore_eos: continue after the model ended its turn.
        detect_loops: end an answer that repeats itself.
        grammar: what the answer must look like; None: it is free.
        top_logprobs: number of likeliest tokens that are told beside each token.
        prompt_logprobs: score the prompt's tokens too; then nothing that was kept of it is used.
        borrows_any: borrow kept prefixes of any length from other sequences, although the answer's last bits, and so
            perhaps its tokens, depend on what was kept then.

    Raises:
        InvalidRequestError: a field is out of range; the message names it and the range.
    """

    input_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    detect_loops: bool = True
    grammar: Grammar | None = None
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    borrows_any: bool = False

    @classmethod
    def exactly(cls, input_ids: Iterable[int], tokens: int) -> Request:
        """Return a greedy request whose answer has exactly `tokens` tokens, for measurements."""
        sampling = SamplingParams(temperature=0.0)
        return cls(tuple(input_ids), sampling, max_tokens=tokens, ignore_eos=True, detect_loops=False)

    def __post_init__(self) -> None:
        """Check all fields."""
        if not isinstance(self.input_ids, tuple):
            raise InvalidRequestError(f"input_ids must be a tuple of token ids, got {shown(self.input_ids)}")
        if not self.input_ids:
            raise InvalidRequestError("the prompt is empty: it needs at least one token")
        for token_id in self.input_ids:
            if not is_integer(token_id) or token_id < 0:
                raise InvalidRequestError(f"token ids must be integers of 0 or more, got {shown(token_id)}")
        if not isinstance(self.sampling, SamplingParams):
            raise InvalidRequestError(f"sampling must be SamplingParams, got {shown(self.sampling)}")
        if self.max_tokens is not None and not (is_integer(self.max_tokens) and self.max_tokens >= 1):
            raise InvalidRequestError(f"max_tokens must be 1 or more, got {shown(self.max_tokens)}")
        self._check_stop()
        if not isinstance(self.grammar, Grammar | None):
            raise InvalidRequestError(f"grammar must be a Grammar, got {shown(self.grammar)}")
        if self.grammar is not None and self.ignore_eos is True:
            raise InvalidRequestError("ignore_eos goes on after the end of the answer, and a grammar ends it")
        if not (is_integer(self.top_logprobs) and 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS):
            raise InvalidRequestError(f"top_logprobs must be 0 to {MAX_TOP_LOGPROBS}, got {shown(self.top_logprobs)}")
        for name in ("ignore_eos", "detect_loops", "prompt_logprobs", "borrows_any"):
            if not isinstance(getattr(self, name), bool):
                raise InvalidRequestError(f"{name} must be True or False, got {shown(getattr(self, name))}")

    def _check_stop(self) -> None:
        if not isinstance(self.stop, tuple):  # one string would be read as its characters
            raise InvalidRequestError(f"stop must be a tuple of strings, got {shown(self.stop)}")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequestError(f"at most {MAX_STOP_STRINGS} stop strings are allowed, got {len(self.stop)}")
        for stop in self.stop:
            if not isinstance(stop, str):
                raise InvalidRequestError(f"stop must contain strings, got {shown(stop)}")
            if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
                length = f"1 to {MAX_STOP_CHARACTERS} characters, got {len(stop)}"
                raise InvalidRequestError(f"a stop string must have {length}")


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that could have been chosen. `piece`: see Token."""

    id: int
    piece: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer, or of a scored prompt.

    Attributes:
        text: the text that it adds; empty while that is part of a character or may become a stop string.
        logprob: log-probability under the model's own distribution, before temperature and penalties; 0 of a prompt's
            first token.
        position: its position in the sequence; the prompt's first token has position 0.
        piece: the bytes that it stands for, perhaps a part of a character; a special token's spelling.
        top: the likeliest tokens at its position, the likeliest first.
    """

    id: int
    text: str
    logprob: float
    position: int
    piece: bytes = b""
    top: tuple[TokenLogprob, ...] = ()


@dataclass(slots=True)
class GenerationStats:
    """Counts and seconds of one answer. `cached_tokens` is the part of the prompt that was in the KV cache.

    Attributes:
        chunk_length: the rest of the prompt was computed in chunks that end at its multiples.
        drafted: drafts that were sent; many are invalidated before the model's token at their position is known.
        compared_by_depth: drafts that were compared with it, by their distance from the newest known token.
        accepted_by_depth: the right ones among them; `accepted` is their sum.
        waited_s: while a lost part of the model was loaded elsewhere, and positions were computed again there.
        waited_for: what was lost last; "" if nothing was.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    ttft_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    total_s: float = 0.0
    drafted: int = 0
    accepted: int = 0
    compared_by_depth: tuple[int, ...] = ()
    accepted_by_depth: tuple[int, ...] = ()
    chunk_length: int = 0
    waited_s: float = 0.0
    waited_for: str = ""

    @property
    def prefill_tps(self) -> float:
        """Computed prompt tokens per second."""
        return (self.prompt_tokens - self.cached_tokens) / self.prefill_s if self.prefill_s else 0.0

    @property
    def decode_tps(self) -> float:
        """Tokens per second after the first one."""
        return (self.generated_tokens - 1) / self.decode_s if self.decode_s else 0.0

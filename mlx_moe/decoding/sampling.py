"""Sampling: from logits to a token. The random number of a position depends on (seed, position) alone.

So the same request gives the same tokens alone, beside others, with or without speculation, and after a
recovery. V vocab_size.
"""

from __future__ import annotations

import math
import reprlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlx_moe.errors import InvalidRequestError

if TYPE_CHECKING:
    import mlx.core as mx

MAX_SEED = (1 << 64) - 1
MAX_BIAS = 100.0
MIN_TEMPERATURE = 1e-5
"""Temperatures between 0 and this count as this: logits divided by less leave float32."""

KEPT_POSITIONS = 16
"""How many positions back a sampler can be asked again, where penalties are on."""

_RANGES = {
    "temperature": (0.0, 10.0),
    "top_k": (0, 1 << 24),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 10.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
}


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose the next token. Applied in the order: bias, penalties, temperature, top_k, top_p, min_p.

    That is transformers' order, and each filter sees the distribution that the one before has left.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_k: 0 is off. top_p: 1 is off. min_p: 0 is off. Tokens tied with the last one kept are kept too.
        repetition_penalty: divides positive logits (multiplies negative ones) of tokens in prompt and answer;
            1 is off.
        presence_penalty, frequency_penalty: subtracted once, or for each time, for tokens in the answer.
        logit_bias: added to a token's logit; a mapping or pairs, kept as pairs in the order of the ids.
        seed: None: one is drawn and reported.

    Raises:
        InvalidRequestError: a field out of range; says which, and the range.
    """

    temperature: float = 0.6
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check all fields."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if isinstance(low, int) and not is_integer(value):
                raise InvalidRequestError(f"{name} must be an integer, got {shown(value)}")
            if not is_number(value):
                raise InvalidRequestError(f"{name} must be a number, got {shown(value)}")
            if not low <= value <= high:  # so that NaN fails
                raise InvalidRequestError(f"{name} must be {low} to {high}, got {shown(value)}")
        if self.seed is not None and not (is_integer(self.seed) and 0 <= self.seed <= MAX_SEED):
            raise InvalidRequestError(f"seed must be an integer from 0 to {MAX_SEED}, got {shown(self.seed)}")
        object.__setattr__(self, "logit_bias", _bias_pairs(self.logit_bias))

    def updated(self, **changes: Any) -> SamplingParams:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def require_vocabulary(self, vocab_size: int) -> None:
        """Raise InvalidRequestError if a biased token is not one of `vocab_size`."""
        highest = max(dict(self.logit_bias), default=0)
        if highest >= vocab_size:
            raise InvalidRequestError(
                f"logit_bias names token {shown(highest)}; the model's vocabulary has {vocab_size} tokens"
            )


class Sampler:
    """Samples the tokens of one request. Lazy: it builds graphs and evaluates nothing.

    Raises:
        InvalidRequestError: a biased token is outside the vocabulary.
    """

    def __init__(self, params: SamplingParams, seed: int, vocab_size: int, prompt_ids: Sequence[int]) -> None:
        import mlx.core as mx

        params.require_vocabulary(vocab_size)
        self._params = params
        self._seed = seed
        self._bias: mx.array | None = None
        self._in_prompt: mx.array | None = None
        self._counts: mx.array | None = None
        self._before: deque[tuple[int, mx.array]] = deque(maxlen=KEPT_POSITIONS)
        if params.logit_bias:
            ids, values = zip(*dict(params.logit_bias).items(), strict=True)
            self._bias = mx.zeros(vocab_size).at[mx.array(ids)].add(mx.array(values, dtype=mx.float32))
        if params.repetition_penalty != 1.0:
            self._in_prompt = mx.zeros(vocab_size, dtype=mx.bool_)
            self._in_prompt[mx.array(sorted(set(prompt_ids)))] = True
        if params.repetition_penalty != 1.0 or params.presence_penalty or params.frequency_penalty:
            self._counts = mx.zeros(vocab_size)

    def __call__(self, logits: mx.array, position: int) -> tuple[mx.array, mx.array]:
        """Sample the token of `position` from logits `[V]`; return it `[]` and its log-probability `[]`.

        The log-probability, float32, is that of the model's own distribution. Where penalties are on, they
        count the tokens sampled for lower positions; a position asked again replaces its token and forgets
        those after it, so drafts may be tried and dropped.

        Raises:
            ValueError: penalties are on, and the position is too far back.
        """
        import mlx.core as mx

        logits = logits.astype(mx.float32)
        counts = self._counts_before(position)
        adjusted = self._adjusted(logits, counts)
        if self._params.temperature == 0:
            token = mx.argmax(adjusted)
        else:
            noise = _gumbel(adjusted.shape, self._seed, position)
            token = mx.argmax(_filtered(adjusted, self._params) + noise)
        if counts is not None:
            self._before.append((position, counts))
            self._counts = counts.at[token].add(1.0)
        return token, logits[token] - mx.logsumexp(logits)

    def _counts_before(self, position: int) -> mx.array | None:
        """Return how often the answer has each token `[V]` below `position`."""
        while self._before and self._before[-1][0] >= position:
            asked, self._counts = self._before.pop()
            if not self._before and asked > position:
                raise ValueError(f"position {position} is before {asked}, the first that is still kept")
        return self._counts

    def _adjusted(self, logits: mx.array, counts: mx.array | None) -> mx.array:
        """Apply the bias and the penalties to logits `[V]`."""
        import mlx.core as mx

        p = self._params
        if self._bias is not None:
            logits = logits + self._bias
        if counts is None:
            return logits
        if self._in_prompt is not None:
            penalized = mx.where(logits > 0, logits / p.repetition_penalty, logits * p.repetition_penalty)
            logits = mx.where(self._in_prompt | (counts > 0), penalized, logits)
        return logits - p.frequency_penalty * counts - p.presence_penalty * (counts > 0)


def is_integer(value: object) -> bool:
    """Return whether a value is an integer, which True and False are not meant to be."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is an integer or a float, NaN included."""
    return is_integer(value) or isinstance(value, float)


def shown(value: object) -> str:
    """Return a value for a message, cut short: it may be megabytes of a client's input."""
    return _Short().repr(value)


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        """Return an integer, or its size: str of too many digits raises."""
        return super().repr_int(x, level) if x.bit_length() <= 128 else f"an integer of {x.bit_length()} bits"


def _bias_pairs(logit_bias: object) -> tuple[tuple[int, float], ...]:
    pairs = logit_bias.items() if isinstance(logit_bias, Mapping) else logit_bias
    try:
        bias = dict(pairs)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise InvalidRequestError(f"logit_bias must map token ids to numbers, got {shown(logit_bias)}") from None
    for token_id, value in bias.items():
        if not is_integer(token_id) or token_id < 0:
            raise InvalidRequestError(f"logit_bias must have token ids, integers of 0 or more, got {shown(token_id)}")
        if not is_number(value) or not -MAX_BIAS <= value <= MAX_BIAS:
            raise InvalidRequestError(
                f"logit_bias of token {shown(token_id)} must be {-MAX_BIAS} to {MAX_BIAS}, got {shown(value)}"
            )
    return tuple(sorted(bias.items()))


def _filtered(logits: mx.array, params: SamplingParams) -> mx.array:
    """Divide logits `[V]` by the temperature; set those that top_k, top_p, min_p leave out to -inf.

    The likeliest always stays.
    """
    import mlx.core as mx

    logits = (logits - logits.max()) / max(params.temperature, MIN_TEMPERATURE)
    if 0 < params.top_k < logits.size:
        logits = mx.where(logits >= mx.topk(logits, params.top_k).min(), logits, -mx.inf)
    if params.top_p < 1:
        ordered = -mx.sort(-logits)
        likelier = mx.cumsum(mx.softmax(ordered), inclusive=False)  # probability of all before it
        last_kept = mx.where(likelier < params.top_p, ordered, 0.0).min()  # 0 is the likeliest's own
        logits = mx.where(logits >= last_kept, logits, -mx.inf)
    if params.min_p > 0:
        logits = mx.where(logits >= math.log(params.min_p), logits, -mx.inf)
    return logits


def _gumbel(shape: Sequence[int], seed: int, position: int) -> mx.array:
    """Return Gumbel noise of a position; the argmax of logits and it is a sample of their softmax.

    Made from exponentials near 0, where uniform numbers are dense: near 1 they are 256 times coarser, and
    unlikely tokens would tie. Never infinite, so what was filtered out stays out and the rest stays in.
    """
    import mlx.core as mx

    uniform = mx.random.uniform(shape=shape, key=_key(seed, position))
    return -mx.log(-mx.log1p(-mx.maximum(uniform, 2.0**-33)))


def _key(seed: int, position: int) -> mx.array:
    """Return MLX's random key for a position: two 32-bit words, mixed from the seed and the position."""
    import mlx.core as mx

    mixed = _mix(_mix(seed) ^ position)
    return mx.array([mixed >> 32, mixed & 0xFFFFFFFF], dtype=mx.uint32)


def _mix(value: int) -> int:
    """Return splitmix64's output for a state. Source: Steele, Lea, Flood, OOPSLA 2014."""
    value = (value + 0x9E3779B97F4A7C15) & MAX_SEED
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MAX_SEED
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MAX_SEED
    return value ^ (value >> 31)

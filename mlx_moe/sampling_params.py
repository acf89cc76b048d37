"""SamplingParams: how a request's tokens are chosen. Checked by the constructor; `decoding.sampling` applies them."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mlx_moe.errors import InvalidRequestError

MAX_SEED = (1 << 64) - 1
MAX_BIAS = 100.0

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

    This is transformers' order; each filter gets the distribution that the previous one leaves.

    Attributes:
        temperature: 0 chooses the likeliest token.
        top_k: 0 is off. top_p: 1 is off. min_p: 0 is off. Tokens tied with the last one kept are kept too.
        repetition_penalty: divides positive logits (multiplies negative ones) of tokens in prompt and answer;
            1 is off.
        presence_penalty, frequency_penalty: subtracted once, or for each time, for tokens in the answer.
        logit_bias: added to a token's logit; a mapping or pairs, kept as pairs in the order of the ids.
        seed: None: a random one is used and reported.

    Raises:
        InvalidRequestError: a field is out of range; the message names it and the range.
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


def is_integer(value: object) -> bool:
    """Return whether a value is an integer, other than True and False."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether a value is an integer or a float, NaN included."""
    return is_integer(value) or isinstance(value, float)


def shown(value: object) -> str:
    """Return a value for a message, shortened: it may be megabytes of a client's input."""
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

"""Sampling: from logits to a token. The random number of a position depends on (seed, position) alone.

So the same request gives the same tokens alone, beside others, with or without speculation, and after a recovery.
V vocab_size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlx_moe.errors import CheckpointError, InvalidRequestError

if TYPE_CHECKING:
    import mlx.core as mx

MAX_SEED = (1 << 64) - 1
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

    Attributes:
        temperature: 0 takes the likeliest token.
        top_k: 0 is off. top_p: 1 is off. min_p: 0 is off.
        repetition_penalty: divides positive logits (multiplies negative ones) of tokens in prompt and answer; 1 is off.
        presence_penalty, frequency_penalty: subtracted once, or for each time, for tokens in the answer.
        logit_bias: added to a token's logit.
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
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check all fields."""
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            whole = isinstance(low, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise InvalidRequestError(f"{name} is {value!r}, wanted {'an integer' if whole else 'a number'}")
            if not low <= value <= high:  # false for NaN too
                raise InvalidRequestError(f"{name} is {value}, wanted {low} to {high}")
        if self.seed is not None and (
            isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed <= MAX_SEED
        ):
            raise InvalidRequestError(f"seed is {self.seed!r}, wanted an integer from 0 to {MAX_SEED}")
        for token_id, bias in self.logit_bias:
            if token_id < 0 or not -100 <= bias <= 100:
                raise InvalidRequestError(f"logit_bias of token {token_id} is {bias}, wanted -100 to 100")

    @classmethod
    def from_generation_config(cls, values: Mapping[str, Any]) -> SamplingParams:
        """Return a checkpoint's own defaults. Raises CheckpointError where they are out of range."""
        known = {name: values[name] for name in _RANGES if values.get(name) is not None}
        if values.get("do_sample") is False:
            known["temperature"] = 0.0
        try:
            return cls(**known)
        except InvalidRequestError as exc:
            raise CheckpointError(f"generation_config.json: {exc}") from exc

    def updated(self, **changes: Any) -> SamplingParams:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


class Sampler:
    """Samples the tokens of one request, position after position. Lazy: it builds graphs and evaluates nothing."""

    def __init__(self, params: SamplingParams, seed: int, vocab_size: int, prompt_ids: Sequence[int]) -> None:
        import mlx.core as mx

        self._params = params
        self._seed = seed
        self._bias: mx.array | None = None
        self._seen: mx.array | None = None
        self._counts: mx.array | None = None
        if params.logit_bias:
            ids, values = zip(*params.logit_bias, strict=True)
            self._bias = mx.zeros(vocab_size).at[mx.array(ids)].add(mx.array(values))
        if params.repetition_penalty != 1.0:
            self._seen = mx.zeros(vocab_size, dtype=mx.bool_)
            self._seen[mx.array(list(set(prompt_ids)))] = True
        if params.presence_penalty or params.frequency_penalty:
            self._counts = mx.zeros(vocab_size)

    def __call__(self, logits: mx.array, position: int) -> tuple[mx.array, mx.array]:
        """Sample the token of `position` from logits `[V]`; return it `[]` and its log-probability `[]`, float32.

        Positions must come in order where penalties are on: they count what was sampled before.
        """
        import mlx.core as mx

        logits = logits.astype(mx.float32)
        adjusted = self._penalized(logits)
        if self._params.temperature == 0:
            token = mx.argmax(adjusted)
        else:
            kept = filtered(adjusted / self._params.temperature, self._params)
            token = mx.argmax(kept + mx.random.gumbel(kept.shape, key=_key(self._seed, position)))
        if self._seen is not None:
            self._seen[token] = True
        if self._counts is not None:
            self._counts = self._counts.at[token].add(1.0)
        return token, logits[token] - mx.logsumexp(logits)

    def _penalized(self, logits: mx.array) -> mx.array:
        import mlx.core as mx

        p = self._params
        if self._bias is not None:
            logits = logits + self._bias
        if self._seen is not None:
            penalty = p.repetition_penalty
            logits = mx.where(self._seen, mx.where(logits > 0, logits / penalty, logits * penalty), logits)
        if self._counts is not None:
            logits = logits - p.frequency_penalty * self._counts - p.presence_penalty * (self._counts > 0)
        return logits


def filtered(logits: mx.array, params: SamplingParams) -> mx.array:
    """Return logits `[V]` with those that top_k, top_p and min_p leave out at -inf; the likeliest always stays."""
    import mlx.core as mx

    size = logits.shape[0]
    if 0 < params.top_k < size:
        logits = mx.where(logits >= mx.topk(logits, params.top_k).min(), logits, -mx.inf)
    if params.top_p < 1:
        order = mx.argsort(-logits)
        probabilities = mx.softmax(logits[order])
        before = mx.cumsum(probabilities) - probabilities
        ordered = mx.where(before < params.top_p, logits[order], -mx.inf)
        ordered = mx.where(mx.arange(size) == 0, logits[order], ordered)
        logits = mx.put_along_axis(logits, order, ordered, axis=0)
    if params.min_p > 0:
        logits = mx.where(logits >= logits.max() + math.log(params.min_p), logits, -mx.inf)
    return logits


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

"""Sampling: from logits to a token. The random number of a position depends only on (seed, position).

So the same request gives the same tokens alone, beside others, with or without speculation, and after a recovery.
Shapes: V vocab_size.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

import mlx.core as mx

from mlx_moe.sampling_params import MAX_SEED, SamplingParams

MIN_TEMPERATURE = 1e-5
"""Smaller temperatures above 0 are replaced by this one: dividing logits by less would leave float32."""

KEPT_POSITIONS = 16
"""Number of positions that a sampler can go back if penalties are on."""


class Sampler:
    """Samples the tokens of one request. Lazy: it builds graphs and evaluates nothing.

    `answer_ids` are the tokens already written if an answer is resumed.

    Raises:
        InvalidRequestError: a biased token is outside the vocabulary.
    """

    def __init__(
        self,
        params: SamplingParams,
        seed: int,
        vocab_size: int,
        prompt_ids: Sequence[int],
        answer_ids: Sequence[int] = (),
    ) -> None:
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
            self._counts = mx.zeros(vocab_size).at[mx.array(list(answer_ids), dtype=mx.uint32)].add(1.0)

    def __call__(self, logits: mx.array, position: int, allowed: mx.array | None = None) -> tuple[mx.array, mx.array]:
        """Sample the token of `position` from logits `[V]`; return it `[]` and its log-probability `[]`.

        Only tokens in the mask `allowed` `[V]` are chosen. The log-probability, float32, is of the model's own
        distribution. Penalties count the tokens sampled for lower positions. Sampling a position again replaces its
        token and removes those after it, so that drafts can be tried and dropped.

        Raises:
            ValueError: penalties are on, and the position is too far back.
        """
        logits = logits.astype(mx.float32)
        counts = self._counts_before(position)
        adjusted = self._adjusted(logits, counts)
        if allowed is not None:
            adjusted = mx.where(allowed, adjusted, -mx.inf)
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
        """Return how often each token occurs in the answer below `position`, `[V]`."""
        while self._before and self._before[-1][0] >= position:
            asked, self._counts = self._before.pop()
            if not self._before and asked > position:
                raise ValueError(f"position {position} is before {asked}, the first that is still kept")
        return self._counts

    def _adjusted(self, logits: mx.array, counts: mx.array | None) -> mx.array:
        """Apply the bias and the penalties to logits `[V]`."""
        p = self._params
        if self._bias is not None:
            logits = logits + self._bias
        if counts is None:
            return logits
        if self._in_prompt is not None:
            penalized = mx.where(logits > 0, logits / p.repetition_penalty, logits * p.repetition_penalty)
            logits = mx.where(self._in_prompt | (counts > 0), penalized, logits)
        return logits - p.frequency_penalty * counts - p.presence_penalty * (counts > 0)


def likeliest(logits: mx.array, count: int) -> tuple[mx.array, mx.array]:
    """Return the `count` likeliest tokens of logits `[..., V]`, the likeliest first, and their log-probabilities."""
    logits = logits.astype(mx.float32)
    ids = mx.argpartition(-logits, kth=count - 1, axis=-1)[..., :count]
    values = mx.take_along_axis(logits, ids, axis=-1)
    order = mx.argsort(-values, axis=-1)
    logprobs = mx.take_along_axis(values, order, axis=-1) - mx.logsumexp(logits, axis=-1, keepdims=True)
    return mx.take_along_axis(ids, order, axis=-1), logprobs


def scored(logits: mx.array, token_ids: mx.array) -> mx.array:
    """Return the log-probability `[L]` of one token for each row of logits `[L, V]`."""
    logits = logits.astype(mx.float32)
    own = mx.take_along_axis(logits, token_ids[:, None], axis=-1)[:, 0]
    return own - mx.logsumexp(logits, axis=-1)


def _filtered(logits: mx.array, params: SamplingParams) -> mx.array:
    """Divide logits `[V]` by the temperature; set those removed by top_k, top_p and min_p to -inf.

    The likeliest token always stays.
    """
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
    """Return a position's Gumbel noise; the argmax of logits plus noise is a sample of their softmax.

    It is made of exponentials from uniform numbers near 0, where these are dense: near 1 they are 256 times coarser,
    and unlikely tokens would tie. It is never infinite, so that filtered tokens stay out and the others stay in.
    """
    uniform = mx.random.uniform(shape=shape, key=_key(seed, position))
    return -mx.log(-mx.log1p(-mx.maximum(uniform, 2.0**-33)))


def _key(seed: int, position: int) -> mx.array:
    """Return MLX's random key for a position: two 32-bit words, mixed from the seed and the position."""
    mixed = _mix(_mix(seed) ^ position)
    return mx.array([mixed >> 32, mixed & 0xFFFFFFFF], dtype=mx.uint32)


def _mix(value: int) -> int:
    """Return splitmix64's output for a state. Source: Steele, Lea, Flood, OOPSLA 2014."""
    value = (value + 0x9E3779B97F4A7C15) & MAX_SEED
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MAX_SEED
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MAX_SEED
    return value ^ (value >> 31)

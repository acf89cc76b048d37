"""Asking: reproducible requests for measurements."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mlx_moe.decoding.request import Request


def request(vocabulary: Sequence[int], prompt_tokens: int, tokens: int, seed: int = 0) -> Request:
    """Return a greedy request for `tokens` tokens with a random prompt, drawn from `vocabulary` by `seed`."""
    return Request.exactly(random.Random(seed).choices(vocabulary, k=prompt_tokens), tokens)

"""Asking: the requests that are measured, the same each time."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mlx_moe.decoding.request import Request


def request(vocabulary: Sequence[int], prompt_tokens: int, tokens: int, seed: int = 0) -> Request:
    """Return a greedy request of so many tokens, whose prompt is drawn from token ids, by seed."""
    return Request.exactly(random.Random(seed).choices(vocabulary, k=prompt_tokens), tokens)

"""Batches: conversations packed into rows of one length.

Knows nothing of steps: the random generator it is given decides everything.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer
from torch import Tensor

from examples.demo_model.corpus import Split, conversation, usual_length
from examples.demo_model.tokenization import PAD_ID, EncodedConversation, encoded


@dataclass(frozen=True, slots=True)
class Batch:
    """Hold input_ids `[B, L]` and is_answer `[B, L]`, which marks the tokens worth predicting."""

    input_ids: Tensor
    is_answer: Tensor


def short_rows(tokenizer: Tokenizer, rng: Random, split: Split, n_rows: int, length: int) -> Batch:
    """Pack conversations of usual length."""
    return _packed(lambda: _chat(tokenizer, rng, split, usual_length(rng), length), n_rows, length, pool_size=24)


def long_rows(tokenizer: Tokenizer, rng: Random, split: Split, n_rows: int, length: int) -> Batch:
    """Pack conversations that nearly fill a row, so that distant turns are seen."""
    return _packed(lambda: _chat(tokenizer, rng, split, rng.randint(8, 60), length), n_rows, length, pool_size=4)


def _chat(tokenizer: Tokenizer, rng: Random, split: Split, n_scenes: int, length: int) -> EncodedConversation:
    while True:
        drawn = encoded(tokenizer, conversation(rng, split, n_scenes))
        if len(drawn.input_ids) <= length:
            return drawn
        n_scenes = max(1, n_scenes * 3 // 4)


def _packed(draw: Callable[[], EncodedConversation], n_rows: int, length: int, pool_size: int) -> Batch:
    """Fill each row with the longest conversations of a pool that still fit."""
    input_ids = torch.full((n_rows, length), PAD_ID)
    is_answer = torch.zeros((n_rows, length), dtype=torch.bool)
    pool = [draw() for _ in range(pool_size)]
    for row in range(n_rows):
        used = 0
        chosen: EncodedConversation | None = pool.pop(0)
        while chosen is not None:
            end = used + len(chosen.input_ids)
            input_ids[row, used:end] = torch.tensor(chosen.input_ids)
            is_answer[row, used:end] = torch.tensor(chosen.is_answer)
            used = end
            pool.append(draw())
            fitting = [chat for chat in pool if len(chat.input_ids) <= length - used]
            chosen = max(fitting, key=lambda chat: len(chat.input_ids), default=None)
            if chosen is not None:
                pool.remove(chosen)
    return Batch(input_ids, is_answer)

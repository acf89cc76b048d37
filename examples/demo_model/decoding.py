"""Decoding in torch with a KV cache, one sequence at a time: enough to measure and to look at answers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from examples.demo_model.model import DemoModel, additive
from examples.demo_model.tokenization import END_ID


def generate(
    model: DemoModel, prompt_ids: Sequence[int], max_tokens: int, temperature: float = 0.0, seed: int = 0
) -> list[int]:
    """Return the tokens after the prompt, up to and including the end of turn."""
    random = torch.Generator().manual_seed(seed)
    L = len(prompt_ids)
    answer: list[int] = []
    with torch.no_grad():
        mask = additive(torch.ones(L, L, dtype=torch.bool).tril())[None, None]
        hidden, cache = model.hidden(torch.tensor([prompt_ids]), mask)
        while len(answer) < max_tokens:
            answer.append(_sampled(model.lm_head(hidden[0, -1]), temperature, random))
            if answer[-1] == END_ID:
                break
            end = L + len(answer)
            newest = torch.tensor([answer[-1:]])
            hidden, own = model.hidden(newest, torch.zeros(1, 1, 1, end), cache, start=end - 1)
            cache = [past.extended(new) for past, new in zip(cache, own, strict=True)]
    return answer


def _sampled(logits: Tensor, temperature: float, random: torch.Generator) -> int:
    if temperature == 0.0:
        return int(logits.argmax())
    return int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=random))

"""Chained MTP predictions: how the MTP layer drafts several tokens ahead, for all positions at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from examples.demo_model.attention import HeadStates
from examples.demo_model.model import DemoModel, additive


def chained(model: DemoModel, input_ids: Tensor, hidden_states: Tensor, mask: Tensor, depths: int) -> Iterator[Tensor]:
    """Yield the hidden states `[B, L, D]` from which lm_head guesses 2, 3, ... tokens ahead.

    At depth 1 the MTP layer reads the trunk's hidden states. At depth k it reads its own output of depth
    k - 1, one position on, and attends to the depth-1 keys, which a drafting engine has in its cache,
    and to the keys of its own chain. Rows near the end of a sequence are meaningless: they wrap round.
    """
    L = input_ids.shape[1]
    itself = additive(torch.eye(L, dtype=torch.bool))
    past: HeadStates | None = None
    for depth in range(1, depths + 1):
        embedded = model.model.embed_tokens(input_ids.roll(-depth, dims=1))
        hidden_states, own = model.nextn.predict(embedded, hidden_states, mask, past, start=depth - 1)
        yield hidden_states
        past = own if past is None else past.extended(own)
        mask = torch.cat((mask, itself.expand(*mask.shape[:-1], L)), dim=-1)

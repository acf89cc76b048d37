"""Frame: one unit of work on a link, the hidden states of consecutive positions of one request.

The position is the truth: a stage that keeps more positions than a frame starts at forgets the rest, then runs.
Regeneration, edited history, rejected drafts and replay after a failure are all this one rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import mlx.core as mx


class FrameKind(Enum):
    """What a frame is for; stages treat them alike but for when they evaluate."""

    PREFILL = "prefill"
    DECODE = "decode"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Frame:
    """Hidden states `[L, D]` of positions position, ..., position + L - 1 of a request.

    Attributes:
        epoch: the placement this frame was made for; stages drop frames of a dead one.
        outputs: of how many of the last positions the hidden states must come back; None for all. The model's last
            layer computes no others: it only keeps their keys and values. The last position's bits are the same.
        checked: look for NaN and Inf after every layer, to name the first; costs an evaluation a layer.
    """

    request_id: str
    position: int
    hidden_states: mx.array
    kind: FrameKind
    epoch: int = 0
    outputs: int | None = None
    checked: bool = False

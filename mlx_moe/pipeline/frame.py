"""Frame: one unit of work on a link, the hidden states of consecutive positions of one sequence.

The position is the truth: a stage that keeps more positions than a frame starts at forgets the rest, then runs.
Regeneration, edited history, rejected drafts and replay after a failure are all this one rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import mlx.core as mx

from mlx_moe.errors import MoeClusterError


class FrameKind(Enum):
    """What a frame is for; stages treat them alike but for when they evaluate."""

    PREFILL = "prefill"
    DECODE = "decode"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Frame:
    """Hidden states `[L, D]` of positions position, ..., position + L - 1 of a sequence.

    Attributes:
        serial: counts a coordinator's frames; the one that comes back from the last stage has that of the one sent.
        outputs: of how many of the last positions the hidden states must come back; None for all. The model's last
            layer computes no others: it only keeps their keys and values. The last position's bits are the same.
        checked: look for NaN and Inf after every layer, to name the first; costs an evaluation a layer.
    """

    sequence_id: str
    position: int
    hidden_states: mx.array
    kind: FrameKind
    serial: int = 0
    outputs: int | None = None
    checked: bool = False


@dataclass(frozen=True, slots=True)
class Fork:
    """The KV caches of a sequence begin as the first `positions` of another's, in place of what they were."""

    sequence_id: str
    source_id: str
    positions: int


@dataclass(frozen=True, slots=True)
class Release:
    """The KV caches of a sequence are freed on all stages."""

    sequence_id: str


@dataclass(frozen=True, slots=True)
class Cancel:
    """Frames of a sequence up to a serial number are dropped wherever they are; its KV caches stay."""

    sequence_id: str
    serial: int


@dataclass(frozen=True, slots=True)
class Refused:
    """What comes back in place of a frame that a stage could not run."""

    sequence_id: str
    serial: int
    error: MoeClusterError


Outgoing = Frame | Fork | Release | Cancel
"""What goes down a link, in order; a Cancel may overtake."""

Returned = Frame | Refused
"""What comes out of the last stage."""


class Placed(Protocol):
    """Anything that stands at a position of a sequence."""

    @property
    def sequence_id(self) -> str:
        """Its sequence."""

    @property
    def position(self) -> int:
        """Its first position."""


def makes_void(newer: Placed, older: Placed) -> bool:
    """Whether a frame makes an older one void: one of its sequence, in flight at its position or later.

    A void frame never comes back to its coordinator, and a stage that it has not reached need not run it.
    """
    return newer.sequence_id == older.sequence_id and older.position >= newer.position

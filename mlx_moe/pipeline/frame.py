"""Frame: one unit of work on a link, the hidden states of consecutive positions of one sequence.

One rule serves regeneration, edited history, rejected drafts and replay after a failure: a frame voids the frames of
its sequence that are in flight at its position or later (`makes_void`), and a stage removes the positions that it keeps
from the frame's first one on before it runs the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import mlx.core as mx

from mlx_moe.errors import MoeClusterError


class FrameKind(Enum):
    """The purpose of a frame; stages treat kinds alike except for the time of evaluation."""

    PREFILL = "prefill"
    DECODE = "decode"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Frame:
    """Hidden states `[L, D]` of positions position, ..., position + L - 1 of a sequence.

    Attributes:
        serial: number of the frame at its coordinator, from 1; the frame that the last stage returns has the same one.
        outputs: the number of last positions whose hidden states must return; None for all. For the other positions
            the model's last layer only stores keys and values. The bits of the last position do not depend on it.
        checked: check for NaN and Inf after every layer, to find the first one; costs one evaluation per layer.
    """

    sequence_id: str
    position: int
    hidden_states: mx.array
    kind: FrameKind
    serial: int = 0
    outputs: int | None = None
    checked: bool = False

    @property
    def is_step(self) -> bool:
        """Whether it is a step of decoding, which stages may compute together with those of other sequences."""
        return self.kind is not FrameKind.PREFILL and self.hidden_states.shape[0] == 1 and not self.checked


@dataclass(frozen=True, slots=True)
class Batch:
    """Steps of different sequences that are computed together, at most TOGETHER; each has the bits it has alone."""

    frames: tuple[Frame, ...]


@dataclass(frozen=True, slots=True)
class Fork:
    """Replaces the KV caches of a sequence by a fork of the first `positions` of another sequence's."""

    sequence_id: str
    source_id: str
    positions: int


@dataclass(frozen=True, slots=True)
class Release:
    """Frees the KV caches of a sequence on all stages."""

    sequence_id: str


@dataclass(frozen=True, slots=True)
class Retain:
    """Frees the KV caches of all other sequences on all stages."""

    sequence_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Drops the frames of a sequence up to a serial number on all stages; its KV caches stay."""

    sequence_id: str
    serial: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Returns in place of a frame that a stage could not run."""

    sequence_id: str
    serial: int
    error: MoeClusterError


Outgoing = Frame | Batch | Fork | Release | Retain | Cancel
"""What is sent on a link, in order; a Cancel may overtake the others."""

Returned = Frame | Refused
"""What the last stage returns."""


class Placed(Protocol):
    """Anything with a position in a sequence."""

    @property
    def sequence_id(self) -> str:
        """Its sequence."""

    @property
    def position(self) -> int:
        """Its first position."""


def makes_void(newer: Placed, older: Placed) -> bool:
    """Whether a frame invalidates an older one: a frame of its sequence in flight at its position or later.

    A void frame never returns to its coordinator, and a stage that it has not reached need not run it.
    """
    return newer.sequence_id == older.sequence_id and older.position >= newer.position

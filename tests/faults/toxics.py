"""Toxics: what is done to the bytes of a connection in one direction. Pure; see `proxy`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Toxics:
    """The faults of one direction; they can be combined, and changed while bytes are on their way.

    `jitter_s` is added to or taken from the latency, evenly distributed; bytes stay in order. `is_black_hole` holds
    all bytes, like a network that loses every packet: none arrives, nothing is closed, and they come when it ends.
    `flip_rate` is the chance of a piece of bytes to arrive with one bit flipped. `slice_bytes` is the longest piece
    that is written at once. `cut_after_bytes` is how many more bytes arrive before the connection is reset.
    `is_half_closed` tells the receiver that the sender has ended, though it goes on.
    """

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    is_black_hole: bool = False
    flip_rate: float = 0.0
    slice_bytes: int | None = None
    cut_after_bytes: int | None = None
    is_half_closed: bool = False

    def delay_s(self, chance: random.Random) -> float:
        """Return how long a piece of bytes is on its way."""
        return max(0.0, self.latency_s + self.jitter_s * chance.uniform(-1, 1))

    def spoiled(self, data: bytes, chance: random.Random) -> bytes:
        """Return the bytes as they arrive."""
        if chance.random() >= self.flip_rate:
            return data
        changed = bytearray(data)
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        return bytes(changed)

    def slices(self, data: bytes) -> Iterator[bytes]:
        """Yield the pieces that are written at once."""
        size = self.slice_bytes or len(data)
        for start in range(0, len(data), size):
            yield data[start : start + size]


NONE = Toxics()
BLACK_HOLE = Toxics(is_black_hole=True)

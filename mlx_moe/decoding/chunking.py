"""Chunking: cuts a prompt into prefill frames by a rule that is part of the placement.

Kernels of another shape give other last bits, so a request has the same bits if, and only if, the same rule cuts it.
The rule depends on the number of new positions, not on the load.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlx_moe.config import ModelConfig
from mlx_moe.errors import InvalidRequestError

MOST_CHUNK = 1 << 16

LONGEST_ALONE = 2048
"""Longest chunk on a single stage; longer ones gain nothing (mlx-lm's step has the same size)."""


@dataclass(frozen=True, slots=True)
class ChunkRule:
    """Cuts a prompt into about `wanted` chunks of equal length: `shortest` times a power of two, at most `longest`.

    The default keeps a pipeline of eight stages busy; fewer, longer chunks read each expert less often.

    Raises:
        InvalidRequestError: a field is out of range.
    """

    wanted: int = 8
    shortest: int = 32
    longest: int = 512

    def __post_init__(self) -> None:
        """Check all fields."""
        if self.wanted < 1:
            raise InvalidRequestError(f"chunks: wanted must be 1 or more, got {self.wanted}")
        if not 1 <= self.shortest <= self.longest <= MOST_CHUNK:
            raise InvalidRequestError(
                f"chunks: shortest and longest must be 1 to {MOST_CHUNK} and in this order, got {self.shortest} and "
                f"{self.longest}"
            )

    @classmethod
    def fixed(cls, length: int) -> ChunkRule:
        """Return the rule that cuts every prompt into chunks of one length."""
        if not 1 <= length <= MOST_CHUNK:
            raise InvalidRequestError(f"--chunk must be 1 to {MOST_CHUNK}, got {length}")
        return cls(1, length, length)

    @classmethod
    def alone(cls, position_bytes: int, room_bytes: int) -> ChunkRule:
        """Return the rule of a single stage: one chunk, shorter if its temporaries do not fit `room_bytes`."""
        longest = LONGEST_ALONE
        while longest > DEFAULT_RULE.longest and longest * position_bytes > room_bytes:
            longest //= 2
        return cls(wanted=1, longest=longest)

    @property
    def fixed_length(self) -> int:
        """The length of all chunks; 0 if it varies."""
        return self.longest if self.shortest == self.longest else 0

    def length(self, new_positions: int) -> int:
        """Return the length of the chunks for a prompt with `new_positions` to compute."""
        length = self.shortest
        while length < self.longest and new_positions**2 > 2 * (self.wanted * length) ** 2:
            length *= 2
        return min(length, self.longest)

    def __str__(self) -> str:
        """Return the rule as text for people."""
        if self.fixed_length:
            return f"chunks of {self.fixed_length} tokens"
        if self.wanted == 1:
            return f"chunks of up to {self.longest} tokens"
        return f"about {self.wanted} chunks of {self.shortest} to {self.longest} tokens"


DEFAULT_RULE = ChunkRule()
"""The rule of placements that do not state one."""


def position_bytes(config: ModelConfig, float_bytes: int) -> int:
    """Return the bytes of temporaries for one position of a chunk while a layer runs.

    These are the rows of its chosen experts, twice because they are copied into another order.
    """
    moe = config.moe
    return 2 * moe.num_experts_per_tok * float_bytes * (2 * moe.moe_intermediate_size + config.hidden_size)


def cut(start: int, end: int, length: int) -> Iterator[int]:
    """Yield the ends of the chunks of positions [start, end): the multiples of `length`, and `end`."""
    while start < end:
        start = min(chunk_start(start, length) + length, end)
        yield start


def chunk_start(position: int, length: int) -> int:
    """Return the start of the chunk that contains `position`."""
    return position // length * length

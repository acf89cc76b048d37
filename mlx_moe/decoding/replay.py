"""Replay: what another coordinator has computed of an answer, so that this one continues it with the same bits."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_moe.decoding.chunking import MOST_CHUNK
from mlx_moe.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class PromptFrames:
    """The frames in which a prompt is computed: where they end, and the lengths of those that were cut, by their ends.

    Attributes:
        chunk_length: of the chunks that begin at position 0.
        rest_length: of the chunks that follow what was kept before.

    Raises:
        InvalidRequestError: there are no such frames.
    """

    ends: tuple[int, ...]
    cut_lengths: tuple[tuple[int, int], ...] = ()
    chunk_length: int = 1
    rest_length: int = 1

    def __post_init__(self) -> None:
        """Check all fields."""
        lengths = [end - start for start, end in zip((0, *self.ends), self.ends, strict=False)]
        lengths += [length for _, length in self.cut_lengths] + [self.chunk_length, self.rest_length]
        if not self.ends or not all(1 <= length <= MOST_CHUNK for length in lengths):
            raise InvalidRequestError(f"a prompt is computed in frames of 1 to {MOST_CHUNK} positions")


@dataclass(frozen=True, slots=True)
class Replay:
    """The tokens that were written, and the frames of the prompt; None: it was not begun."""

    answer_ids: tuple[int, ...] = ()
    frames: PromptFrames | None = None

"""Drafter: guesses the next tokens of a sequence. Shapes: L positions, D hidden_size, V vocab_size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import mlx.core as mx

Choose = Callable[[mx.array], int]
"""Chooses a token from logits `[V]` as the request's sampler does at the draft's position.

With the same random number as the real token, a drafter with a similar distribution is right far more often.
"""


class Drafter(Protocol):
    """Guesses for one sequence; it may keep what it knows from one request to the next.

    A wrong guess costs time, never a token.
    """

    @property
    def observer(self) -> Observer | None:
        """Receives the model's hidden states for it; None if it needs none."""

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int | None:
        """Guess the token after `token_ids`, which the stages keep, and `in_flight`; None: no guess now.

        `in_flight[0]` is confirmed; the rest are unverified drafts, which may have changed at the next call.
        """

    def rewind(self, position: int) -> None:
        """Forget the positions from `position` on."""

    def fork(self, positions: int) -> Drafter:
        """Return a drafter for a sequence that begins with the first `positions` of this one's."""


class Observer(Protocol):
    """Receives the hidden states of all positions, including the prompt's."""

    def observe(self, hidden_states: mx.array, token_ids: Sequence[int]) -> None:
        """Receive the model's hidden states `[L, D]`, before its final norm, of the last positions of `token_ids`.

        `token_ids` are all that the stages keep; each position is observed once, unless `rewind` forgets it. This is
        called for every frame; long computations belong in `catch_up` and `draft`.
        """

    def catch_up(self, token_ids: Sequence[int]) -> list[mx.array]:
        """Start to process queued hidden states of the positions of `token_ids`; called while this stage is idle.

        Returns:
            The arrays to wait for, which may take as long as one layer for two chunks of a prompt.
        """

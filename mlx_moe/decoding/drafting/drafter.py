"""Drafter: what guesses the next token of a session. Shapes: L positions, D hidden_size, V vocab_size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import mlx.core as mx

Choose = Callable[[mx.array], int]
"""Chooses a token from logits `[V]` as the request's sampler does at the draft's position.

With the same random number as the truth, a drafter whose distribution is near is right far more often.
"""


class Drafter(Protocol):
    """Guesses for one session, with which it lives: it may keep what it knows from one request to the next.

    A wrong guess costs time, never a token: nobody relies on it.
    """

    observes: bool
    """Whether it is given the hidden states of all positions, the prompt's too.

    `observe` and `catch_up` are not called otherwise.
    """

    def observe(self, hidden_states: mx.array, token_ids: Sequence[int]) -> None:
        """Take the model's hidden states `[L, D]`, before its final norm, of the last positions of `token_ids`.

        `token_ids` are all that the session keeps; each position is observed once, unless `rewind` forgets it. This
        is on every frame's way: what takes time is left to `catch_up` and `draft`.
        """

    def catch_up(self, token_ids: Sequence[int]) -> list[mx.array]:
        """Process queued hidden states of the observed positions, `token_ids`; called while this stage is idle.

        Returns:
            What is to be evaluated for that; it may take as long as a layer takes for a chunk of a prompt or two.
        """

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int | None:
        """Guess the token after `token_ids`, which the session keeps, and `in_flight`; None: nothing to offer now.

        `in_flight[0]` is confirmed; the rest are unverified drafts, which may have changed at the next call.
        """

    def rewind(self, position: int) -> None:
        """Forget the positions from `position` on."""

    def fork(self, positions: int) -> Drafter:
        """Return a drafter for a session that begins with the first `positions` of this one's."""

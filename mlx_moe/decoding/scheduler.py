"""Scheduler: decides which answer has the next turn, how many frames each may have in flight, and which are evicted.

Pure bookkeeping over sequence ids: it sends and frees nothing itself.
"""

from __future__ import annotations

from collections import deque

from mlx_moe.decoding.kv_budget import KVBudget
from mlx_moe.decoding.sampling import KEPT_POSITIONS

RESERVE = 1024
"""Positions reserved for an answer without max_tokens; the answer may become longer while there is room."""


class Scheduler:
    """Answers have turns in the order in which they became ready. `kv_positions` and `fixed_positions`: see KVBudget.

    An answer is ready (it can send a frame, or one has returned), held (its reader is far behind), or waiting for a
    frame in flight.
    """

    def __init__(self, n_stages: int, kv_positions: int | None = None, fixed_positions: int = 0) -> None:
        self.budget = KVBudget(kv_positions, fixed_positions)
        self._n_stages = n_stages
        self._active: set[str] = set()
        self._ready: deque[str] = deque()
        self._held: set[str] = set()

    def begin(self, sequence_id: str, prompt: int, limit: int, max_tokens: int | None) -> list[str]:
        """Reserve KV cache for a prompt of `prompt` tokens and an answer of up to `limit`. Raises as `KVBudget.admit`.

        Returns:
            The evicted idle sequences: the caller must release their KV caches.
        """
        reserved = limit if max_tokens is not None else min(limit, RESERVE)
        gone = self.budget.admit(sequence_id, prompt + reserved)
        self._active.add(sequence_id)
        return gone

    def end(self, sequence_id: str) -> None:
        """End an answer; its sequence keeps its KV cache."""
        self._active.discard(sequence_id)
        self._held.discard(sequence_id)
        if sequence_id in self._ready:
            self._ready.remove(sequence_id)
        self.budget.rest(sequence_id)

    def ready(self, sequence_id: str) -> None:
        """Queue an answer for a turn after the others, unless it is queued already."""
        if sequence_id not in self._ready:
            self._ready.append(sequence_id)

    def hold(self, sequence_id: str) -> None:
        """Give an answer no turns until `unhold`."""
        self._held.add(sequence_id)

    def unhold(self, sequence_id: str) -> None:
        """Give a held answer turns again."""
        if sequence_id in self._held:
            self._held.discard(sequence_id)
            self.ready(sequence_id)

    def next(self) -> str | None:
        """Return the sequence with the next turn; None if all wait."""
        while self._ready:
            sequence_id = self._ready.popleft()
            if sequence_id not in self._held:
                return sequence_id
        return None

    @property
    def frames_for_each(self) -> int:
        """Number of frames that each answer may have in flight in decode; one with as many answers as stages.

        Held answers, which send nothing, do not count.
        """
        return min(self._n_stages // max(1, len(self._active - self._held)), KEPT_POSITIONS)

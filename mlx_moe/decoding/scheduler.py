"""Scheduler: decides which answers have the next turn, how many frames each may have in flight, and which are evicted.

Pure bookkeeping over sequence ids: it sends and frees nothing itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from mlx_moe.decoding.kv_budget import KVBudget
from mlx_moe.decoding.sampling import KEPT_POSITIONS
from mlx_moe.layers.batches import largest_batch

RESERVE = 1024
"""Positions reserved for an answer without max_tokens; the answer may become longer while there is room."""


class Scheduler:
    """Answers have turns in the order in which they became ready. `kv_positions` and `fixed_positions`: see KVBudget.

    An answer is ready (it can send a frame, or one has returned), held (its reader is far behind), or waiting for a
    frame in flight. Those that `decodes` knows as decoding have turns together, and at least every second turn.
    """

    def __init__(
        self,
        n_stages: int,
        decodes: Callable[[str], bool],
        kv_positions: int | None = None,
        fixed_positions: int = 0,
    ) -> None:
        self.budget = KVBudget(kv_positions, fixed_positions)
        self._n_stages = n_stages
        self._decodes = decodes
        self._decoded_last = False
        self._active: set[str] = set()
        self._ready: deque[str] = deque()
        self._held: set[str] = set()

    def begin(self, sequence_id: str, prompt: int, written: int, limit: int, max_tokens: int | None) -> list[str]:
        """Reserve KV cache for a prompt of `prompt` tokens and an answer of up to `limit`, of which some are `written`.

        Raises as `KVBudget.admit`.

        Returns:
            The evicted idle sequences: the caller must release their KV caches.
        """
        reserved = limit if max_tokens is not None else min(limit, written + RESERVE)
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

    def next(self) -> list[str]:
        """Return the sequences with the next turn: some that decode, or one that does not; none if all wait.

        Those that decode are divided among the stages, so that none is idle.
        """
        ready = [sequence_id for sequence_id in self._ready if sequence_id not in self._held]
        decoding: list[str] = []
        others: list[str] = []
        for sequence_id in ready:
            (decoding if self._decodes(sequence_id) else others).append(sequence_id)
        self._decoded_last = bool(decoding) and not (others and self._decoded_last)
        chosen = decoding[: self._most_together] if self._decoded_last else others[:1]
        self._ready = deque(sequence_id for sequence_id in ready if sequence_id not in chosen)
        return chosen

    @property
    def _most_together(self) -> int:
        n_decoding = sum(self._decodes(sequence_id) for sequence_id in self._active - self._held)
        return largest_batch(n_decoding, self._n_stages)

    @property
    def frames_for_each(self) -> int:
        """Number of frames that each answer may have in flight in decode; one with as many answers as stages.

        Held answers, which send nothing, do not count.
        """
        return min(self._n_stages // max(1, len(self._active - self._held)), KEPT_POSITIONS)

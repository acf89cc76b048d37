"""KeptPrefixes: the prompts of answers that have ended, whose KV caches later requests may borrow.

Knows nothing about memory: the KV budget evicts what it needs, whatever is kept here.
"""

from __future__ import annotations

from mlx_moe.decoding.sequence import Sequence

MAX_KEPT = 64


class KeptPrefixes:
    """The most recently used ended sequences, without those that another one covers."""

    def __init__(self, most: int = MAX_KEPT) -> None:
        self._most = most
        self._kept: list[Sequence] = []  # the most recently used one is last

    def keep(self, sequence: Sequence) -> list[Sequence]:
        """Keep a sequence; return those that are not kept any more, perhaps this one: the caller must release them."""
        if not sequence.token_ids:
            return [sequence]
        gone = [other for other in self._kept if not other.token_ids or sequence.covers(other)]
        self._kept = [*(other for other in self._kept if other not in gone), sequence]
        gone += self._kept[: -self._most]
        del self._kept[: -self._most]
        return gone

"""Session: a handle of a sequence whose KV caches are kept between requests."""

from __future__ import annotations

from collections.abc import Callable

from mlx_moe.decoding.sequence import Sequence


class Session:
    """A sequence that is kept until the session is closed; its KV caches may be evicted before."""

    def __init__(self, sequence: Sequence, close: Callable[[Sequence], None]) -> None:
        self.sequence = sequence
        self._close = close

    @property
    def id(self) -> str:
        """The sequence's id."""
        return self.sequence.id

    def close(self) -> None:
        """Free its KV caches on all stages. An unfinished answer ends as cancelled."""
        self._close(self.sequence)

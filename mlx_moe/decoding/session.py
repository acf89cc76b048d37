"""Session: a conversation's KV caches on the stages, and which tokens they are known to keep.

Knows nothing of how they are made: the coordinator keeps it up to date.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mlx_moe.decoding.chunking import chunk_start

if TYPE_CHECKING:
    from mlx_moe.decoding.drafting import Drafter
    from mlx_moe.decoding.generation import Generation


class Session:
    """KV caches that are kept between requests until the session is closed, or gives way to other sessions.

    Attributes:
        token_ids: those whose positions are known to be kept, in order from position 0.
        chunk_length: of the chunks in which its positions were prefilled from position 0.
        in_whole_chunks: length of the prefix whose KV is bit-identical across sessions with equal chunk_length; only
            this may be shared. It was prefilled in whole chunks from position 0.
        reused: positions of the last request's prompt that were kept already.
        answer: the answer that is being written.
        drafter: guesses at its tokens, and knows what the session keeps.
    """

    def __init__(self, release: Callable[[Session], None], drafter: Drafter | None = None) -> None:
        self.id = uuid.uuid4().hex
        self.token_ids: list[int] = []
        self.chunk_length = 1
        self.in_whole_chunks = 0
        self.reused = 0
        self.answer: Generation | None = None
        self.drafter = drafter
        self._release = release

    def close(self) -> None:
        """Free its KV caches everywhere. An answer that is being written ends as cancelled."""
        if self.answer is not None:
            self.answer.close()
        self._release(self)

    def keep(self, token_ids: Sequence[int]) -> None:
        """Note that the next positions are kept, after one frame of these tokens has come back."""
        start = len(self.token_ids)
        self.token_ids.extend(token_ids)
        if start == self.in_whole_chunks and len(token_ids) == self.chunk_length:
            self.in_whole_chunks += self.chunk_length

    def rewind(self, position: int) -> None:
        """Forget the positions from `position` on."""
        del self.token_ids[position:]
        if self.drafter is not None:
            self.drafter.rewind(position)
        self.in_whole_chunks = chunk_start(min(self.in_whole_chunks, position), self.chunk_length)

    def begin_as(self, lender: Session, positions: int) -> None:
        """Note that its caches begin as the first `positions` of another's, in place of what they were."""
        self.rewind(0)
        self.token_ids[:] = lender.token_ids[:positions]
        self.chunk_length, self.in_whole_chunks = lender.chunk_length, positions
        if lender.drafter is not None:
            self.drafter = lender.drafter.fork(positions)

    def shared(self, input_ids: Sequence[int]) -> int:
        """Return how many leading tokens of `input_ids` are kept, not counting its last one, which must be run."""
        for position, (kept, wanted) in enumerate(zip(self.token_ids, input_ids[:-1], strict=False)):
            if kept != wanted:
                return position
        return min(len(self.token_ids), len(input_ids) - 1)

    def lend(self, input_ids: Sequence[int], chunk_length: int) -> int:
        """Return how many positions a request of another session, cut into chunks of that length, may begin with."""
        if chunk_length != self.chunk_length:
            return 0
        return chunk_start(min(self.shared(input_ids), self.in_whole_chunks), chunk_length)

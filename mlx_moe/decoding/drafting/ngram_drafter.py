"""NgramDrafter: drafts the token that followed the last earlier occurrence of the newest tokens."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_moe.decoding.drafting.drafter import Choose

LONGEST = 4
"""Most tokens to compare; the longest suffix found is used, of equally long ones the latest."""

CANDIDATES = 64
"""Most earlier occurrences to compare, the latest first."""


class NgramDrafter:
    """An index as in LZ77: the last position of each token; each position links to the previous one of its token.

    It grows by one step per token of the sequence; a draft costs at most CANDIDATES comparisons.
    """

    observer = None

    def __init__(self) -> None:
        self._token_ids: list[int] = []
        self._before: list[int] = []  # by position: the last earlier one of the same token, or -1
        self._last: dict[int, int] = {}

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int | None:  # noqa: ARG002
        """See Drafter."""
        for token_id in token_ids[len(self._token_ids) :]:
            self._index(token_id)
        known = self._token_ids
        suffix = [*known[-LONGEST:], *in_flight][-LONGEST:]
        found, longest = None, 0
        place = self._last.get(suffix[-1], -1)
        for _ in range(CANDIDATES):
            if place < 0:
                break
            length = _common_suffix(known, place, suffix)
            if length > longest:
                after = place + 1
                found, longest = known[after] if after < len(known) else in_flight[0], length
            if longest == LONGEST:
                break
            place = self._before[place]
        return found

    def rewind(self, position: int) -> None:
        """See Drafter."""
        while len(self._token_ids) > position:
            token_id, before = self._token_ids.pop(), self._before.pop()
            if before < 0:
                del self._last[token_id]
            else:
                self._last[token_id] = before

    def fork(self, positions: int) -> NgramDrafter:  # noqa: ARG002
        """See Drafter. The kept tokens are indexed at its first draft."""
        return NgramDrafter()

    def _index(self, token_id: int) -> None:
        self._before.append(self._last.get(token_id, -1))
        self._last[token_id] = len(self._token_ids)
        self._token_ids.append(token_id)


def _common_suffix(token_ids: Sequence[int], place: int, suffix: Sequence[int]) -> int:
    """Return the number of tokens up to `place` that equal the last ones of `suffix`."""
    length = 0
    while length < len(suffix) and place >= length and token_ids[place - length] == suffix[-1 - length]:
        length += 1
    return length

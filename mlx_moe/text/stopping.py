"""Stopping: ends an answer before the model does, at a stop string or when the answer repeats itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopStrings:
    """Searches a text that arrives in pieces for stop strings; holds back text that may begin one.

    The answer ends at the first stop string that is complete, and consists of the text before it. If several end at the
    same character, the longest is used. The result does not depend on how the text is cut into pieces.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self._stopped = False

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that may be shown, without the stop string, and whether a stop string was found."""
        if self._stopped or not self._stop:
            return ("", True) if self._stopped else (text, False)
        text = self._held + text
        places = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if places:
            self._held, self._stopped = "", True
            return text[: min(places)[1]], True
        held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def finish(self) -> str:
        """Return the text that was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `stop` (but not all of it)."""
    start = text.find(stop[0], max(len(text) - len(stop) + 1, 0))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return len(text) - start if start >= 0 else 0


class LoopDetector:
    """Detects that an answer repeats itself.

    It does if it ends with at least 5 copies of one block of up to 320 tokens, which together have at least 256 tokens.
    So at most 1,600 tokens are wasted, and 256 if a single token or a phrase is repeated. Counting, lists and tables
    differ from row to row and are not detected; refrains, rulers and rows of zeros are shorter than 256 tokens.
    """

    MAX_PERIOD = 320
    MIN_REPEATS = 5
    MIN_TOKENS = 256

    def __init__(self) -> None:
        self._fed = 0
        self._recent: deque[int] = deque()
        self._places: dict[int, deque[int]] = {}
        self._run: dict[int, int] = {}

    def feed(self, token_id: int) -> bool:
        """Add a token of the answer; return whether the answer now repeats itself.

        Only periods that the token's earlier positions allow are examined: few in ordinary text, at most 320.
        """
        places = self._places.setdefault(token_id, deque())
        # by period p: how many tokens at the end equal the token p before them
        self._run = {p: self._run.get(p, 0) + 1 for p in (self._fed - place for place in places)}
        places.append(self._fed)
        self._recent.append(token_id)
        self._fed += 1
        if len(self._recent) > self.MAX_PERIOD:
            self._forget(self._recent.popleft())
        return any(p + run >= max(self.MIN_TOKENS, self.MIN_REPEATS * p) for p, run in self._run.items())

    def _forget(self, token_id: int) -> None:
        """Drop the oldest position, which belongs to this token."""
        places = self._places[token_id]
        places.popleft()
        if not places:
            del self._places[token_id]

"""What ends an answer before the model does: stop strings, and repeating itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopStrings:
    """Feeds on pieces of text, and holds back what may be the beginning of a stop string.

    The answer ends where the first stop string is complete, and is the text before it; of several that end at
    the same character the longest counts. That does not depend on how the text is cut into pieces.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self._stopped = False

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that may be shown, and whether a stop string was found; it is not shown."""
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
        """Return what was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    start = text.find(stop[0], max(len(text) - len(stop) + 1, 0))
    while start >= 0 and not stop.startswith(text[start:]):
        start = text.find(stop[0], start + 1)
    return len(text) - start if start >= 0 else 0


class LoopDetector:
    """Says when an answer repeats itself.

    It does when its last tokens are one block, of up to 320 tokens, at least 5 times in a row and over at
    least 256 tokens. So no more than 1600 tokens are wasted, and a single token or a phrase wastes 256.
    Counting, lists and tables differ from row to row; refrains, rulers and a row of zeros are shorter.
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
        """Add a token of the answer; return whether it now repeats itself.

        Looks only at the periods that the token's earlier places allow: few in ordinary text, 320 at worst.
        """
        places = self._places.setdefault(token_id, deque())
        # the tokens so far that were equal, one after the other, to the one a period before them
        self._run = {p: self._run.get(p, 0) + 1 for p in (self._fed - place for place in places)}
        places.append(self._fed)
        self._recent.append(token_id)
        self._fed += 1
        if len(self._recent) > self.MAX_PERIOD:
            self._forget(self._recent.popleft())
        return any(p + run >= max(self.MIN_TOKENS, self.MIN_REPEATS * p) for p, run in self._run.items())

    def _forget(self, token_id: int) -> None:
        """Drop the oldest place, which was this token's."""
        places = self._places[token_id]
        places.popleft()
        if not places:
            del self._places[token_id]

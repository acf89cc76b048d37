"""What ends an answer before the model does: stop strings, and repeating itself."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Feeds on pieces of text, and holds back what may be the beginning of a stop string."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """Return the text that may be shown, and whether a stop string was found; it is not shown."""
        if not self._stop:
            return text, False
        text = self._held + text
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        held = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class LoopDetector:
    """Says when an answer repeats itself.

    It does when its last tokens are one block, of up to 256 tokens, written at least 4 times in a row and over at
    least 128 tokens. Counting, lists and tables differ from row to row; refrains and rulers are shorter.
    """

    MAX_PERIOD = 256
    MIN_REPEATS = 4
    MIN_TOKENS = 128

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._run = [0] * (self.MAX_PERIOD + 1)

    def feed(self, token_id: int) -> bool:
        """Add a token of the answer; return whether it now repeats itself."""
        tokens = self._tokens
        tokens.append(token_id)
        if len(tokens) > 2 * self.MAX_PERIOD:
            del tokens[: -self.MAX_PERIOD - 1]
        looping = False
        for period in range(1, min(len(tokens), self.MAX_PERIOD + 1)):
            if tokens[-1 - period] == token_id:
                self._run[period] += 1
                repeated = self._run[period] + period
                looping = looping or repeated >= max(self.MIN_TOKENS, self.MIN_REPEATS * period)
            else:
                self._run[period] = 0
        return looping

"""Detokenizer: an answer's token ids to text, piece by piece, never half a character.

Knows nothing of stop strings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TokenizersTokenizer

REPLACEMENT = "\ufffd"
MAX_CHARACTER_BYTES = 4


class Detokenizer:
    """Decodes a short window: the tokens of the last piece, which give context, and those not yet shown.

    The window moves on with every piece that ends in a whole character, so a token costs the same however long the
    answer is. Two kinds of vocabulary spell a character in several tokens. Byte-level ones end in one replacement
    character while it is incomplete. Those with byte fallback (`<0xE2>`) turn the whole run of bytes into replacement
    characters, also those that were complete, so there nothing is shown until the run is whole again, or too long.
    """

    def __init__(self, tokenizer: TokenizersTokenizer, special_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special_ids = special_ids
        self._byte_fallback = tokenizer.token_to_id("<0x80>") is not None
        self._window: list[int] = []
        self._context = 0
        self._shown = 0
        self._waiting = 0

    def add(self, token_id: int) -> str:
        """Return the text that is complete with this token and was not given out yet."""
        if token_id in self._special_ids:
            return ""
        self._window.append(token_id)
        text = self._decode()
        held = self._held(text)
        piece = text[self._shown : len(text) - held]
        self._shown += len(piece)
        if piece and not held:
            self._move_on(whole=not text.endswith(REPLACEMENT))
        return piece

    def finish(self) -> str:
        """Return what was held back: a character that was never completed."""
        piece = self._decode()[self._shown :]
        self._shown += len(piece)
        return piece

    def _held(self, text: str) -> int:
        """Return how many characters at the end of the window's text may yet change."""
        incomplete = len(text) - len(text.rstrip(REPLACEMENT))
        if not incomplete:
            self._waiting = 0
        elif self._byte_fallback:
            self._waiting += 1
            return incomplete if self._waiting < MAX_CHARACTER_BYTES else 0
        return min(incomplete, 1)

    def _move_on(self, whole: bool) -> None:
        """Keep the tokens of the last piece as context, but none of a run of bytes that is no text."""
        self._window = self._window[self._context :] if whole else []
        self._context = len(self._window)
        self._shown = len(self._decode())
        self._waiting = 0

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=True)

"""Detokenizer: an answer's token ids to text, piece by piece, never half a character.

Knows nothing of stop strings and special tokens' meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TokenizersTokenizer

REPLACEMENT = "\ufffd"
MAX_HELD_CHARACTERS = 3
"""A character has at most four bytes; three of them, each decoded to a replacement character, may wait for the last."""


class Detokenizer:
    """Decodes a short window: the tokens of the last piece, which give context, and those not yet shown.

    The window moves on with every piece that ends in a whole character, so a token costs the same however long the
    answer is.
    """

    def __init__(self, tokenizer: TokenizersTokenizer, special_ids: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._special_ids = special_ids
        self._window: list[int] = []
        self._context = 0
        self._shown = 0

    def add(self, token_id: int) -> str:
        """Return the text that is complete with this token and was not given out yet."""
        if token_id in self._special_ids:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        whole = text.rstrip(REPLACEMENT)
        held = min(len(text) - len(whole), MAX_HELD_CHARACTERS)
        piece = text[self._shown : len(text) - held]
        self._shown += len(piece)
        if not held and piece:
            self._window = self._window[self._context :]
            self._context = len(self._window)
            self._shown = len(self._decode(self._window))
        return piece

    def finish(self) -> str:
        """Return what was held back: a character that was never completed."""
        piece = self._decode(self._window)[self._shown :]
        self._shown += len(piece)
        return piece

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

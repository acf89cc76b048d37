"""Detokenizer: turns an answer's token ids into text, token by token, and never returns part of a character.

Knows nothing about stop strings. tokenizers' DecodeStream is not used: it cannot return the text that it holds back at
the end, raises on a broken character after a complete one, and decodes an ever longer window while bytes form no text.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import TYPE_CHECKING, Any

from mlx_moe.text.byte_level import BYTE_OF

if TYPE_CHECKING:
    from tokenizers import Tokenizer as TokenizersTokenizer

REPLACEMENT = "\ufffd"
SPACE = "\u2581"  # how SentencePiece's vocabularies spell it
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Detokenizer:
    """Turns the tokens of one answer into text. The cost of a token does not depend on the answer's length.

    Tokens in `hidden_ids` produce no text: special tokens, except those that a reader needs.
    """

    def __init__(self, tokenizer: TokenizersTokenizer, hidden_ids: frozenset[int]) -> None:
        kinds = _decoder_kinds(tokenizer)
        self._id_to_token = tokenizer.id_to_token
        self._hidden_ids = hidden_ids
        self._text = _ByteLevelText() if is_byte_level(tokenizer) else _WindowText(tokenizer, kinds)

    def add(self, token_id: int) -> str:
        """Return the text that this token completes. Text that was returned never changes."""
        if token_id in self._hidden_ids:
            return ""
        token: str | None = self._id_to_token(token_id)
        return "" if token is None else self._text.add(token_id, token)

    def finish(self) -> str:
        """Return the text held back: replacement characters for a character that was never completed."""
        return self._text.finish()


class _ByteLevelText:
    """Text of a byte-level vocabulary, in which each character of a token stands for one byte."""

    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token_id: int, token: str) -> str:  # noqa: ARG002 - _WindowText needs it
        return self._utf8.decode(bytes_of(token, is_byte_level=True))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowText:
    """Text of any other vocabulary: the library decodes a short window of tokens; the text after the context is new.

    The window consists of the tokens of the last piece as context, because a token may decode differently at the start
    of a text, and the tokens that added no text since. Byte tokens (`<0xE2>`) are decoded here: the library replaces a
    whole run of them if one byte is invalid. Complete characters are returned at once, and each byte that belongs to no
    character becomes one replacement character.
    """

    def __init__(self, tokenizer: TokenizersTokenizer, kinds: list[str]) -> None:
        self._tokenizer = tokenizer
        self._byte_fallback = "ByteFallback" in kinds
        self._half_characters = "ByteLevel" in kinds
        self._window: list[int] = []
        self._context = 0
        self._shown = 0
        self._bytes = bytearray()
        self._byte_ids: list[int] = []

    def add(self, token_id: int, token: str) -> str:
        byte = _BYTE_TOKEN.fullmatch(token) if self._byte_fallback else None
        if byte is None:
            return self._broken(len(self._bytes)) + self._decoded(token_id)
        self._bytes.append(int(byte[1], 16))
        self._byte_ids.append(token_id)
        return self._whole()

    def finish(self) -> str:
        held = self._decode()[self._shown :]
        self._shown += len(held)
        return held + self._broken(len(self._bytes))

    def _decoded(self, token_id: int) -> str:
        """Return the text that a token adds that is not a byte token."""
        self._window.append(token_id)
        text = self._decode()
        held = self._half_characters and text.endswith(REPLACEMENT)
        piece = text[self._shown : len(text) - held]
        self._shown += len(piece)
        if piece and not held:
            self._keep(self._window[self._context :])
        return piece

    def _whole(self) -> str:
        """Return the characters that the bytes form; keep trailing bytes that may begin a character."""
        piece = ""
        while self._bytes:
            try:
                character = self._bytes.decode()
            except UnicodeDecodeError as exc:
                if exc.end == len(self._bytes) and exc.reason == "unexpected end of data":
                    break
                piece += self._broken(exc.end)
            else:
                first, ids = not self._window, self._byte_ids
                self._keep(ids)
                self._bytes, self._byte_ids = bytearray(), []
                piece += self._decode() if first else character
        return piece

    def _broken(self, count: int) -> str:
        """Drop the first `count` bytes; return one replacement character for each."""
        if count:
            self._keep(self._byte_ids[:1])
            del self._bytes[:count], self._byte_ids[:count]
        return REPLACEMENT * count

    def _keep(self, context: list[int]) -> None:
        self._window = context
        self._context = len(context)
        self._shown = len(self._decode())

    def _decode(self) -> str:
        return self._tokenizer.decode(self._window, skip_special_tokens=False)


def is_byte_level(tokenizer: TokenizersTokenizer) -> bool:
    """Whether each character of a token stands for one byte."""
    return _decoder_kinds(tokenizer) == ["ByteLevel"]


def bytes_of(token: str, *, is_byte_level: bool) -> bytes:
    """Return the bytes that a token of a vocabulary stands for."""
    if is_byte_level:
        try:
            return bytes(map(BYTE_OF.__getitem__, token))
        except KeyError:  # an added token, which is spelled in plain text
            return token.encode()
    byte = _BYTE_TOKEN.fullmatch(token)
    return token.replace(SPACE, " ").encode() if byte is None else bytes([int(byte[1], 16)])


def _decoder_kinds(tokenizer: TokenizersTokenizer) -> list[str]:
    """Return the types of the decoding steps in tokenizer.json's `decoder`, in order."""
    if tokenizer.decoder is None:
        return []
    steps: list[dict[str, Any]] = [json.loads(tokenizer.decoder.__getstate__())]
    if steps[0]["type"] == "Sequence":
        steps = steps[0]["decoders"]
    return [step["type"] for step in steps]

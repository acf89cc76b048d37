"""Thought: what a model thinks before it answers, and the markers that it writes around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_WORDS = ("think", "thought", "reason")


@dataclass(frozen=True, slots=True)
class ThoughtMarkers:
    """The texts that begin and end a thought."""

    open: str = "<think>"
    close: str = "</think>"

    @classmethod
    def find(cls, added_tokens: Iterable[str], template: str) -> ThoughtMarkers:
        """Return a model's markers: those of its added tokens, else the usual ones, which may be plain text.

        They are a pair like <think> and </think>, [THINK] and [/THINK], <|START_THINKING|> and <|END_THINKING|>. Of
        several pairs that counts which the chat template names.
        """
        tokens = list(added_tokens)
        pairs = [cls(token, close) for token in tokens if (close := _closing(token)) in tokens]
        pairs.sort(key=lambda markers: markers.close not in template and markers.open not in template)
        return pairs[0] if pairs else cls()


def _closing(token: str) -> str | None:
    """Return what would end what a token begins, None where it begins no thought."""
    if not any(word in token.lower() for word in _WORDS):
        return None
    if "START" in token:
        return token.replace("START", "END")
    return f"{token[0]}/{token[1:]}" if token[1] != "/" else None

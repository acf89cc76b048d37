"""Thought: the reasoning that a model writes before its answer, and the markers around it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_WORDS = ("think", "thought", "reason")
_ENDINGS = (("START", "END"), ("start", "end"), ("BEGIN", "END"), ("begin", "end"))
_CLOSING = re.compile(rf"[<\[◁]/[\w:|]*(?:{'|'.join(_WORDS)})\w*[>\]▷]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ThoughtMarkers:
    """The texts that a model writes before and after a thought."""

    open: str = "<think>"
    close: str = "</think>"

    @classmethod
    def find(cls, added_tokens: Iterable[str], template: str) -> ThoughtMarkers:
        """Return a model's markers: a pair of its added tokens, else one that its chat template contains, else <think>.

        Examples of pairs: <think> and </think>, [THINK] and [/THINK], <|START_THINKING|> and <|END_THINKING|>. Of
        several pairs of tokens the one in the template is used.
        """
        tokens = list(dict.fromkeys(added_tokens))
        pairs = [cls(token, close) for token in tokens for close in _closings(token) if close in tokens]
        if pairs:
            return min(pairs, key=lambda pair: pair.close not in template and pair.open not in template)
        named = _CLOSING.search(template)
        return cls() if named is None else cls(named[0].replace("/", "", 1), named[0])


def _closings(token: str) -> Iterator[str]:
    """Yield the possible end markers for a token that may begin a thought; none for other tokens."""
    if any(word in token.lower() for word in _WORDS):
        yield f"{token[0]}/{token[1:]}"
        for beginning, end in _ENDINGS:
            if beginning in token:
                yield token.replace(beginning, end)

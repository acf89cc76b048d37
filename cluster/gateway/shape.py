"""Shape: how one API writes an answer: as one object, or as a stream of events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cluster.gateway.answering import End, Piece
from cluster.gateway.failures import Failure
from mlx_moe.decoding.request import Token
from mlx_moe.text.dialects import Content, Part, Reasoning, ToolCall


@dataclass(frozen=True, slots=True)
class Accepted:
    """A question that the model answers: the model's name for clients, and the length of the prompt in tokens."""

    model: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Whole:
    """A whole answer: its parts, neighbours of one kind joined, its tokens, its end, and the prompt's, if scored."""

    parts: Sequence[Part]
    tokens: Sequence[Token]
    end: End
    prompt: Sequence[Token] = ()


class Shape(Protocol):
    """Writes one answer. Made for each request; all methods are called in the order of the answer."""

    media_type: str

    def begin(self) -> bytes:
        """Return what the stream begins with."""

    def piece(self, piece: Piece) -> bytes:
        """Return the events of a token; empty if it completed nothing."""

    def end(self, end: End) -> bytes:
        """Return the last events."""

    def pause(self) -> bytes:
        """Return what keeps the stream alive and means nothing; empty if the API has no such thing."""

    def cut(self, failure: Failure) -> bytes:
        """Return the event of an error in the middle of the stream."""

    def whole(self, answer: Whole) -> Any:
        """Return the whole answer as one JSON value."""


def content_of(parts: Sequence[Part]) -> str:
    """Return the text of the answer itself."""
    return "".join(part.text for part in parts if isinstance(part, Content))


def reasoning_of(parts: Sequence[Part]) -> str:
    """Return what the model thought before it answered."""
    return "".join(part.text for part in parts if isinstance(part, Reasoning))


def calls_of(parts: Sequence[Part]) -> list[ToolCall]:
    """Return the tool calls."""
    return [part for part in parts if isinstance(part, ToolCall)]

"""Dialect: how a model marks reasoning and tool calls in its answers, and the parser that splits an answer by it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from mlx_moe.text.dialects.parts import Content, Markup, Part, Reasoning, ToolCall
from mlx_moe.text.dialects.reader import Reader, Steps
from mlx_moe.text.dialects.tools import Definition, Tools
from mlx_moe.text.dialects.written import Writer
from mlx_moe.text.thought import ThoughtMarkers

Grammar: TypeAlias = Callable[[Reader, ThoughtMarkers], Steps[None]]
"""Reads a whole answer."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """A way of speaking.

    Attributes:
        write: writes calls as `grammar` reads them.
        markers: the texts around a thought.
        special_tokens: special tokens whose text `grammar` reads, so that a detokenizer must not drop them.
        turn: the text before an answer in a prompt, if all text after it is the answer's; else only an open thought is.
    """

    name: str
    grammar: Grammar
    write: Writer
    markers: ThoughtMarkers = field(default_factory=ThoughtMarkers)
    special_tokens: frozenset[str] = frozenset()
    turn: str | None = None

    def parser(self, tools: Sequence[Definition] = (), opening: str = "") -> AnswerParser:
        """Return a parser for one answer.

        Args:
            tools: the tools that the model was told of.
            opening: what the prompt has of the answer already, from `opening`; its parts are not returned again.
        """
        parser = AnswerParser(self.grammar(reader := Reader(Tools(tools)), self.markers), reader)
        parser.feed(opening)
        return parser

    def split(self, text: str, tools: Sequence[Definition] = ()) -> list[Part]:
        """Return the parts of a whole answer."""
        parser = self.parser(tools)
        return merged([*parser.feed(text), *parser.finish()])

    def opening(self, prompt: str) -> str:
        """Return the end of a prompt that belongs to the answer: a thought that it began, "" if there is none."""
        if self.turn is not None:
            return prompt.rpartition(self.turn)[2] if self.turn in prompt else ""
        at = prompt.rfind(self.markers.open)
        return prompt[at:] if at >= 0 and not prompt[at + len(self.markers.open) :].strip() else ""


class AnswerParser:
    """Splits one answer into parts while it is written."""

    def __init__(self, grammar: Steps[None], reader: Reader) -> None:
        self._grammar = grammar
        self._reader = reader

    def feed(self, text: str) -> list[Part]:
        """Return the parts that this text completes. Text that may still become a tag or a call is held back."""
        self._reader.feed(text)
        next(self._grammar, None)
        return merged(self._reader.drain())

    def finish(self) -> list[Part]:
        """Return the rest; a call that is not complete is content."""
        self._reader.end()
        for _ in self._grammar:
            pass
        self._reader.flush()
        return merged(self._reader.drain())


def merged(parts: Iterable[Part]) -> list[Part]:
    """Join neighbouring pieces of reasoning, of content and of markup."""
    joined: list[Part] = []
    for kind, run in itertools.groupby(parts, type):
        pieces = list(run)
        source = "".join(piece.source for piece in pieces)
        text = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning | Content))
        if kind is ToolCall:
            joined += pieces
        elif kind is Markup:
            joined.append(Markup(source))
        else:
            joined.append(Reasoning(text, source) if kind is Reasoning else Content(text, source))
    return joined

"""Checker: whether the tokens that clients were sent are those of an undisturbed run, each position once, in order.

Pure. A request may be heard in several streams, one after the other: a client that goes on after an error asks again
with what was written, so that the next stream continues where the last one ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mlx_moe.decoding.request import Token


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must not happen to a request at a position."""

    request: str
    position: int
    what: str

    def __str__(self) -> str:
        """Return it in one line."""
        return f"request {self.request}, position {self.position}: {self.what}"


@dataclass(slots=True)
class Heard:
    """What was heard of one request: `wanted` are the tokens of an undisturbed run, after `prompt_tokens` positions."""

    request: str
    prompt_tokens: int
    wanted: Sequence[Token]
    tokens: list[Token] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)

    def token(self, token: Token) -> None:
        """Hear a token."""
        index = token.position - self.prompt_tokens
        expected = len(self.tokens)
        if index > expected:
            self._violated(token.position, f"a gap: {index - expected} positions before it were not heard")
        elif index < 0:
            self._violated(token.position, "a token within the prompt")
        elif index < expected:
            before = self.tokens[index]
            same = (before.id, before.text) == (token.id, token.text)
            told = "heard twice" if same else f"changed from {before.id} to {token.id} after it was streamed"
            self._violated(token.position, told)
        if index >= len(self.wanted):
            self._violated(token.position, f"beyond the {len(self.wanted)} tokens of the undisturbed run")
        elif index >= 0 and self.wanted[index] != token:
            self._violated(token.position, f"{token}, the undisturbed run has {self.wanted[index]}")
        self.tokens.append(token)

    def ended(self, finish_reason: str | None) -> None:
        """Hear the end of the answer; `finish_reason` is None if it ended with an error."""
        if finish_reason in ("stop", "length", "loop") and len(self.tokens) < len(self.wanted):
            at = self.prompt_tokens + len(self.tokens)
            self._violated(at, f"ended with {finish_reason}; the undisturbed run has {len(self.wanted)} tokens")

    def _violated(self, position: int, what: str) -> None:
        self.violations.append(Violation(self.request, position, what))

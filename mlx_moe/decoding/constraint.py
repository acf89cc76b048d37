"""Constraint: which tokens may follow, by a grammar that the answer must obey.

It is asked with all tokens of the answer so far, drafts included, and goes back where they differ from those before. So
a wrong draft, a rewind and an answer that is continued elsewhere need nothing of their own. Shapes: V vocab_size.
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import llguidance
import mlx.core as mx
import numpy as np

from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.grammar import Grammar, lark
from mlx_moe.text.tokenizer import Tokenizer

MAX_REASON = 400

_EXCERPT = re.compile(r"\s*(\d+ *\||\^+$)")
"""Matches the lines of an error that show the Lark text and point into it."""

KEPT_GRAMMARS = 32
"""Number of compiled grammars that are kept: clients send the same ones again and again."""


class Constraint:
    """The grammar of one answer."""

    def __init__(self, matcher: llguidance.LLMatcher, eos_token_ids: frozenset[int], vocab_size: int) -> None:
        self._matcher = matcher
        self._eos_token_ids = eos_token_ids
        self._vocab_size = vocab_size
        self._consumed: list[int] = []
        self._allowed: mx.array | None = None

    def allowed(self, answer_ids: Sequence[int]) -> mx.array:
        """Return the mask `[V]` of the tokens that may follow `answer_ids`.

        Raises:
            InvalidRequestError: the grammar is too complex to follow it any further.
        """
        self._go_to(answer_ids)
        if self._allowed is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            mask = np.unpackbits(bits, bitorder="little")[: self._vocab_size].astype(np.bool_)
            if not mask.any():
                raise InvalidRequestError(f"the grammar allows no token: {self._matcher.get_error() or 'it is stuck'}")
            self._allowed = mx.array(np.pad(mask, (0, self._vocab_size - len(mask))))
        return self._allowed

    def prepare(self, answer_ids: Sequence[int]) -> None:
        """Compute the mask that `allowed` will return, unless the answer has ended."""
        if answer_ids[-1] not in self._eos_token_ids:
            self.allowed(answer_ids)

    def allows(self, answer_ids: Sequence[int], token_id: int) -> bool:
        """Whether a draft that does not end the answer may follow `answer_ids`."""
        self._go_to(answer_ids)
        return token_id not in self._eos_token_ids and self._matcher.validate_tokens([token_id]) == 1

    def _go_to(self, answer_ids: Sequence[int]) -> None:
        """Bring the matcher to the state after these tokens, which it allowed."""
        same = next(
            (n for n, (a, b) in enumerate(zip(self._consumed, answer_ids, strict=False)) if a != b),
            min(len(self._consumed), len(answer_ids)),
        )
        new = list(answer_ids[same:])
        if same == len(self._consumed) and not new:
            return
        self._allowed = None
        if same < len(self._consumed):
            self._matcher.rollback(len(self._consumed) - same)
        self._consumed = list(answer_ids)
        if new and not self._matcher.consume_tokens(new):
            raise InvalidRequestError(f"the answer cannot follow its grammar any further: {self._matcher.get_error()}")


class Constraints:
    """Compiles grammars for one model's tokenizer. Methods may be called in any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def new(self, grammar: Grammar, prompt_ids: Sequence[int]) -> Constraint:
        """Return a constraint for the answer to a prompt.

        The first one of a grammar takes up to a second, others microseconds.

        Raises:
            InvalidRequestError: the grammar has something that llguidance does not support, which the message names.
            CheckpointError: the model has no tokenizer.
        """
        tokenizer = self._tokenizer
        text = lark(grammar, tokenizer.dialect, tokenizer.special_ids, tokenizer.opening(prompt_ids))
        with self._lock:
            if (matcher := self._compiled.get(text)) is None:
                matcher = llguidance.LLMatcher(self._tokens, llguidance.LLMatcher.grammar_from_lark(text), log_level=0)
                if matcher.is_error():
                    raise InvalidRequestError(f"the grammar is not supported: {_reason(matcher.get_error())}")
                self._compiled[text] = matcher
                if len(self._compiled) > KEPT_GRAMMARS:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(text)
            return Constraint(matcher.deep_copy(), tokenizer.eos_token_ids, self._vocab_size)

    @cached_property
    def _tokens(self) -> llguidance.LLTokenizer:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "tokenizer.json"
            path.write_text(self._tokenizer.as_json, encoding="utf-8")
            ends = sorted(self._tokenizer.eos_token_ids) or None
            return llguidance.LLTokenizer(str(path), n_vocab=self._vocab_size, eos_token=ends)


def _reason(error: str) -> str:
    """Return llguidance's message in one line, without the place in the Lark text and without that text."""
    lines = [line.strip() for line in error.splitlines() if not _EXCERPT.match(line)]
    text = " ".join(filter(None, lines))
    return (text.partition("): ")[2] or text or "unknown")[:MAX_REASON]

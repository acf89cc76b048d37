"""Grammar: what an answer must look like, and its form for llguidance.

A model may think first: the grammar holds for what follows the thought. Knows nothing about tokens beyond which texts
are special tokens.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from mlx_moe.errors import InvalidRequestError
from mlx_moe.text.dialects import Dialect

MAX_CHARACTERS = 256 << 10
"""Of all schemas of a grammar together; compiling takes up to a second for as much."""

MAX_TOOLS = 128

MAX_CALLS = 16
"""Of an answer that must be calls; a small model would call until its tokens are used up."""

ANY_OBJECT = '{"type": "object"}'

_BLANK = r"[ \t\r\n]{0,4}"
"""What may be between a thought and the answer, or between two calls."""

_SPACE = r" ?|\n {0,16}"
"""What may be between the elements of JSON."""

_SPACE_IN_CALLS = " ?"
"""Models write arguments in one line; a small one would fill max_tokens with indentation."""

_ARGUMENTS = '{"moe_cluster_arguments": 0}'
"""Stands for the arguments in a call that a dialect writes, to find what it writes around them."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like: one JSON value of a schema, or calls of tools.

    Attributes:
        schema: a JSON schema as text; "" if the answer must be calls.
        tools: name and JSON schema of the arguments, as text, of each tool that may be called.
        parallel: whether the answer may have several calls, at most MAX_CALLS.

    Raises:
        InvalidRequestError: a schema is not a JSON object or boolean, or there is too much.
    """

    schema: str = ""
    tools: tuple[tuple[str, str], ...] = ()
    parallel: bool = False

    @classmethod
    def of_schema(cls, schema: Any) -> Self:
        """Return the grammar of one JSON value."""
        return cls(json.dumps(schema, ensure_ascii=False))

    def __post_init__(self) -> None:
        """Check all fields."""
        if bool(self.schema) == bool(self.tools):
            raise InvalidRequestError("a grammar has either a schema or tools")
        if len(self.tools) > MAX_TOOLS:
            raise InvalidRequestError(f"a call can be forced among at most {MAX_TOOLS} tools, got {len(self.tools)}")
        size = len(self.schema) + sum(len(schema) for _, schema in self.tools)
        if size > MAX_CHARACTERS:
            raise InvalidRequestError(f"the JSON schemas have {size:,} characters; the limit is {MAX_CHARACTERS:,}")
        for schema in filter(None, (self.schema, *(schema for _, schema in self.tools))):
            _parsed(schema)


def lark(grammar: Grammar, dialect: Dialect, special_ids: Mapping[str, int], opening: str) -> str:
    """Return a grammar in llguidance's Lark.

    Args:
        special_ids: ids of the special tokens by their texts.
        opening: what the prompt has of the answer already: "", or an open thought.

    Raises:
        InvalidRequestError: the model's dialect has no place for it.
    """
    if dialect.turn is not None:
        raise InvalidRequestError(f"models that answer in {dialect.name}'s channels cannot be held to a grammar")
    rules = [f"start: {_thought(dialect, special_ids, opening)}answer", f"BLANK: /{_BLANK}/"]
    if grammar.schema:
        return "\n".join([*rules, f"answer: {_json(grammar.schema, _SPACE)}"])
    calls = []
    for n, (name, schema) in enumerate(grammar.tools):
        before, after = _around(dialect, name)
        calls.append(f"call{n}")
        rules.append(f"call{n}: {_literal(before, special_ids)} args{n} {_literal(after, special_ids)}")
        rules.append(f"args{n}: {_json(schema, _SPACE_IN_CALLS)}")
    more = f" (BLANK call){{0,{MAX_CALLS - 1}}}" if grammar.parallel else ""
    return "\n".join([*rules, f"answer: call{more}", f"call: {' | '.join(calls)}"])


def _thought(dialect: Dialect, special_ids: Mapping[str, int], opening: str) -> str:
    """Return the part before the answer: the rest of an open thought, or a whole one if the model can think."""
    markers = dialect.markers
    close = _literal(markers.close, special_ids)
    if markers.close in special_ids:
        rest = f"/(.|\\n)*/ {close} BLANK "
    else:
        rest = f"/(.|\\n)*{_escaped(markers.close)}{_BLANK}/ "
    if markers.open in opening:
        return rest
    return f"({_literal(markers.open, special_ids)} {rest})? " if markers.open in special_ids else ""


def _json(schema: str, space: str) -> str:
    """Return a schema as Lark. White space is bounded: a small model would write nothing else."""
    value = _parsed(schema)
    bounded = {"x-guidance": {"whitespace_pattern": space}}
    return f"%json {json.dumps({**(value if isinstance(value, dict) else {}), **bounded}, ensure_ascii=False)}"


def _around(dialect: Dialect, name: str) -> tuple[str, str]:
    """Return what the dialect writes before and after the arguments of a call."""
    before, found, after = dialect.write([(name, _ARGUMENTS)]).partition(_ARGUMENTS)
    if not found:
        raise InvalidRequestError(f"the model writes calls in {dialect.name}'s tags, which cannot be forced")
    return before, after


def _literal(text: str, special_ids: Mapping[str, int]) -> str:
    """Return a text as Lark: special tokens by their ids, the rest quoted."""
    if not special_ids:
        return json.dumps(text, ensure_ascii=False)
    pattern = "|".join(re.escape(token) for token in sorted(special_ids, key=len, reverse=True))
    pieces = re.split(f"({pattern})", text)
    written = [
        f"<[{special_ids[piece]}]>" if piece in special_ids else json.dumps(piece, ensure_ascii=False)
        for piece in pieces
        if piece
    ]
    return " ".join(written)


def _escaped(text: str) -> str:
    return re.escape(text).replace("/", "\\/")


def _parsed(schema: str) -> Any:
    try:
        value = json.loads(schema)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequestError(f"a JSON schema is not valid JSON: {exc}") from exc
    if not isinstance(value, dict | bool):
        raise InvalidRequestError(f"a JSON schema must be an object, got {schema[:80]}")
    return value

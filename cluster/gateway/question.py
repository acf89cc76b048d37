"""Question: what a client asks, whichever API it speaks; and the reading of its JSON body."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from mlx_moe.decoding.request import MAX_TOP_LOGPROBS
from mlx_moe.errors import InvalidRequestError
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.dialects import Definition
from mlx_moe.text.grammar import ANY_OBJECT, Grammar

MAX_MESSAGES = 10_000
MAX_TOOLS = 512

MAX_DEPTH = 100
"""Of objects and lists in a body: tools' schemas have 10 or 20, and templates and grammars recurse."""

_NO_PARAMETERS = {"type": "object", "properties": {}}

_COMPOSING = ("allOf", "not", "if", "dependentSchemas", "unevaluatedProperties", "$dynamicRef")
_WITH_SCHEMAS = {"items", "prefixItems", "anyOf", "oneOf", "additionalProperties"}
_WITH_NAMED_SCHEMAS = {"properties", "$defs", "definitions"}
"""Keywords of JSON schemas, by what they have: lists of schemas or one, or schemas by name."""

B = TypeVar("B", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Question:
    """A chat to continue, or a prompt.

    Attributes:
        messages: in the form of OpenAI's API; of a chat.
        prompt: text, or token ids that are taken as they are; of a completion.
        variables: for the chat template.
        sampling: the parameters that the client set; the model's own defaults hold for the others.
        max_tokens: None: no limit but the context.
        fits_context: max_tokens beyond the context is no limit, instead of an error.
        grammar: what the answer must look like; None: it is free.
        top_logprobs: number of likeliest tokens that are told beside each token.
        prompt_logprobs: score the prompt's tokens too.
        prompt_as_is: a prompt of text gets no special tokens of the tokenizer before it.
    """

    messages: Sequence[Mapping[str, Any]] = ()
    prompt: str | tuple[int, ...] = ""
    tools: tuple[Definition, ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None
    fits_context: bool = False
    stop: tuple[str, ...] = ()
    grammar: Grammar | None = None
    top_logprobs: int = 0
    prompt_logprobs: bool = False
    prompt_as_is: bool = False

    def __post_init__(self) -> None:
        """Check what the model does not; raise InvalidRequestError."""
        for name, count, most in (
            ("messages", len(self.messages), MAX_MESSAGES),
            ("tools", len(self.tools), MAX_TOOLS),
        ):
            if count > most:
                raise InvalidRequestError(f"at most {most:,} {name} are allowed, got {count:,}")
        SamplingParams(**self.sampling)
        if not 0 <= self.top_logprobs <= MAX_TOP_LOGPROBS:
            raise InvalidRequestError(
                f"logprobs and top_logprobs must be 0 to {MAX_TOP_LOGPROBS}, got {self.top_logprobs}"
            )


def read(body: bytes, kind: type[B]) -> B:
    """Return a JSON body as a struct; fields that it does not have are ignored.

    Raises:
        InvalidRequestError: it is not JSON, nested too deeply, or a field has a wrong type; the message names it.
    """
    try:
        value = msgspec.json.decode(body, type=kind)
        body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequestError(f"the body is not valid: {exc}") from exc
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply") from None
    _check_depth(value)
    return value


def _check_depth(body: msgspec.Struct) -> None:
    level: list[Any] = [getattr(body, name) for name in body.__struct_fields__]
    for _ in range(MAX_DEPTH):
        level = [part for outer in level for part in _parts(outer) if isinstance(part, dict | list)]
        if not level:
            return
    raise InvalidRequestError(f"the body is nested too deeply: at most {MAX_DEPTH} objects and lists are allowed")


def _parts(value: Any) -> Collection[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def refuse(body: msgspec.Struct, **reasons: str) -> None:
    """Raise InvalidRequestError for the first of these fields that is set: the server knows them but cannot do it."""
    for name, reason in reasons.items():
        if getattr(body, name) not in (None, [], {}, False, 0):
            raise InvalidRequestError(f"{name} is not supported: {reason}")


def given(**fields: Any) -> dict[str, Any]:
    """Return the fields that are set: null is the same as a field that is absent."""
    return {name: value for name, value in fields.items() if value is not None}


def json_grammar(kind: Any, schema: Any, name: str) -> Grammar | None:
    """Return the grammar of an answer's format: None for "text".

    Raises:
        InvalidRequestError: the field `name` has another kind, or a schema that is no object.
    """
    if kind in (None, "text"):
        return None
    if kind in ("json_object", "json"):
        return Grammar(ANY_OBJECT)
    if kind != "json_schema":
        raise InvalidRequestError(f"{name} of type {str(kind)[:80]!r} is not supported: text, json_object, json_schema")
    if not isinstance(schema, Mapping):
        raise InvalidRequestError(f"{name} of type 'json_schema' must have a schema, a JSON object")
    return Grammar.of_schema(schema)


def calls_grammar(tools: Sequence[Definition], name: str | None, *, parallel: bool) -> Grammar:
    """Return the grammar of an answer that must call the tool of that name, once, or, without one, any of the tools.

    A call has only the arguments that its tool describes, unless the schema itself says something else.

    Raises:
        InvalidRequestError: there is no such tool.
    """
    functions = [tool["function"] for tool in tools]
    wanted = [function for function in functions if name in (None, function["name"])]
    if not wanted:
        raise InvalidRequestError(f"tool_choice asks for {(name or 'a tool')[:80]!r}, which is not among the tools")
    schemas = ((function["name"], _closed(function.get("parameters") or _NO_PARAMETERS)) for function in wanted)
    calls = tuple((called, json.dumps(schema)) for called, schema in schemas)
    return Grammar(tools=calls, parallel=parallel and name is None)


def _closed(schema: Any) -> Any:
    """Return a tool's schema whose objects have no properties but the described ones, where it says nothing else.

    Left as it is if it composes schemas so that an object is described in several places.
    """
    text = json.dumps(schema)
    return schema if any(f'"{keyword}"' in text for keyword in _COMPOSING) else _with_closed_objects(schema)


def _with_closed_objects(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_closed_objects(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for keyword in _WITH_SCHEMAS & schema.keys():
        closed[keyword] = _with_closed_objects(schema[keyword])
    for keyword in _WITH_NAMED_SCHEMAS & schema.keys():
        if isinstance(schema[keyword], dict):
            closed[keyword] = {name: _with_closed_objects(part) for name, part in schema[keyword].items()}
    if isinstance(schema.get("properties"), dict):
        closed.setdefault("additionalProperties", False)
    return closed


def stops(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the stop strings of a field that is a string, a list or unset."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)

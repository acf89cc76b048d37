"""Kimi K2 and K2-Thinking: thoughts between <think> tags, calls between special tokens.

A call has an id, `functions.NAME:NUMBER`, which gives its name; the result of the tool is sent back under that id.

Source: the chat templates of the published checkpoints, and the tool calling guide beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_moe.text.dialects.calls import Call, Section, checked, read_section_calls
from mlx_moe.text.dialects.dialect import Dialect
from mlx_moe.text.dialects.reader import MalformedError, Reader, Steps
from mlx_moe.text.dialects.thought import read_thought
from mlx_moe.text.dialects.written import Called
from mlx_moe.text.thought import ThoughtMarkers

_CALL = "<|tool_call_begin|>"
_ARGUMENTS = "<|tool_call_argument_begin|>"
_CALL_END = "<|tool_call_end|>"
_SECTION = Section("<|tool_calls_section_begin|>", _CALL, "<|tool_calls_section_end|>", is_special=True)


def _grammar(answer: Reader, markers: ThoughtMarkers) -> Steps[None]:
    yield from read_thought(answer, markers, _SECTION.begin)
    yield from read_section_calls(answer, _SECTION, _call)


def _call(answer: Reader) -> Steps[Call]:
    yield from answer.expect(_CALL)
    yield from answer.space()
    call_id = yield from answer.word()
    yield from answer.space()
    yield from answer.expect(_ARGUMENTS)
    yield from answer.space()
    arguments = yield from answer.json_object()
    yield from answer.space()
    yield from answer.expect(_CALL_END)
    name = call_id.removeprefix("functions.").rsplit(":", 1)[0]
    if not name:
        raise MalformedError
    return name, checked(arguments), call_id


def _write(calls: Sequence[Called]) -> str:
    written = (
        f"{_CALL}functions.{name}:{index}{_ARGUMENTS}{arguments}{_CALL_END}"
        for index, (name, arguments) in enumerate(calls)
    )
    return f"{_SECTION.begin}{''.join(written)}{_SECTION.end}"


KIMI = Dialect(
    "kimi",
    _grammar,
    _write,
    special_tokens=frozenset((_SECTION.begin, _CALL, _ARGUMENTS, _CALL_END, _SECTION.end)),
)

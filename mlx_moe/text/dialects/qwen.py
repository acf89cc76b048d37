"""Qwen3 and Qwen3-Coder: thoughts between <think> tags, calls between <tool_call> tags.

Qwen3 writes a call as JSON; Qwen3-Coder, Qwen3-Next and Qwen3.5 as tags for the function and each parameter. Both are
read, whichever the template asks for. `</parameter>` in a value that no other tag follows is part of the value.
Qwen3-Coder sometimes forgets <tool_call>: a function that the request has is called without it too.

Source: the chat templates of the published checkpoints.
"""

from __future__ import annotations

from mlx_moe.text.dialects.calls import Call, json_call, read_calls
from mlx_moe.text.dialects.dialect import Dialect
from mlx_moe.text.dialects.reader import MalformedError, Reader, Steps, Tags
from mlx_moe.text.dialects.thought import read_thought
from mlx_moe.text.dialects.written import in_json
from mlx_moe.text.thought import ThoughtMarkers

_BEGIN = "<tool_call>"
_END = "</tool_call>"
_FUNCTION = "<function="
_FUNCTION_END = "</function>"
_PARAMETER = "<parameter="
_PARAMETER_END = "</parameter>"


def _grammar(answer: Reader, markers: ThoughtMarkers) -> Steps[None]:
    yield from read_thought(answer, markers)
    yield from read_calls(answer, Tags(_BEGIN, _FUNCTION), read_tool_call)


def read_tool_call(answer: Reader) -> Steps[Call]:
    """Read a call in either form."""
    has_begin = yield from answer.accept(_BEGIN)
    yield from answer.space()
    if (yield from answer.accept(_FUNCTION)):
        call = yield from _tagged(answer)
    else:
        call = json_call((yield from answer.json_object()))
    yield from answer.space()
    if not (yield from answer.accept(_END)) and has_begin:
        raise MalformedError
    if not has_begin and call[0] not in answer.tools:
        raise MalformedError
    return call


def _tagged(answer: Reader) -> Steps[Call]:
    name = yield from answer.label(">")
    yield from answer.space()
    texts: dict[str, str] = {}
    tag = yield from answer.expect(_PARAMETER, _FUNCTION_END)
    while tag == _PARAMETER:
        key = yield from answer.label(">")
        text, tag = yield from answer.value(_PARAMETER_END, _PARAMETER, _FUNCTION_END)
        texts[key] = text.removeprefix("\n").removesuffix("\n")
    return name, answer.tools.arguments(name, texts), ""


write_tool_calls = in_json(f"{_BEGIN}\n", "arguments", f"\n{_END}", "\n")

QWEN = Dialect("qwen", _grammar, write_tool_calls, special_tokens=frozenset((_BEGIN, _END)))

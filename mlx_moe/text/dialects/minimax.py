"""MiniMax M2: thoughts between <think> tags, calls as <invoke> tags with parameters, in a section of their own.

Source: the chat template of the published checkpoint, and the tool calling guide beside it.
"""

from __future__ import annotations

from mlx_moe.text.dialects.calls import Call, Section, read_section_calls
from mlx_moe.text.dialects.dialect import Dialect
from mlx_moe.text.dialects.reader import Reader, Steps
from mlx_moe.text.dialects.thought import read_thought
from mlx_moe.text.dialects.written import in_tags
from mlx_moe.text.thought import ThoughtMarkers

_SECTION = Section("<minimax:tool_call>", '<invoke name="', "</minimax:tool_call>")
_END = "</invoke>"
_PARAMETER = '<parameter name="'
_PARAMETER_END = "</parameter>"


def _grammar(answer: Reader, markers: ThoughtMarkers) -> Steps[None]:
    yield from read_thought(answer, markers)
    yield from read_section_calls(answer, _SECTION, _call)


def _call(answer: Reader) -> Steps[Call]:
    yield from answer.expect(_SECTION.call)
    name = yield from answer.label('">')
    yield from answer.space()
    texts: dict[str, str] = {}
    tag = yield from answer.expect(_PARAMETER, _END)
    while tag == _PARAMETER:
        key = yield from answer.label('">')
        texts[key], tag = yield from answer.value(_PARAMETER_END, _PARAMETER, _END)
    return name, answer.tools.arguments(name, texts), ""


MINIMAX = Dialect(
    "minimax",
    _grammar,
    in_tags(
        _SECTION.begin,
        f'{_SECTION.call}{{name}}">',
        f'{_PARAMETER}{{key}}">{{value}}{_PARAMETER_END}',
        _END,
        _SECTION.end,
    ),
    special_tokens=frozenset((_SECTION.begin, _SECTION.end)),
)

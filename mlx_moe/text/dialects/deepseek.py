"""DeepSeek V3, R1, V3.1 and V3.2: thoughts between <think> tags, calls between special tokens.

V3 and R1 write a call as `function`, its name, and JSON in a code block; V3.1 as name and JSON; V3.2 as parameters in
tags of its own markup language, each with the mark of whether it is a string.

Source: the chat templates of the published checkpoints; V3.2's prompt encoding, which takes the place of a template.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from mlx_moe.text.dialects.calls import Call, Section, checked, read_section_calls
from mlx_moe.text.dialects.dialect import Dialect
from mlx_moe.text.dialects.reader import Reader, Steps
from mlx_moe.text.dialects.thought import read_thought
from mlx_moe.text.dialects.tools import joined, json_or_string
from mlx_moe.text.dialects.written import Called, in_tags
from mlx_moe.text.thought import ThoughtMarkers

_CALL = "<｜tool▁call▁begin｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_CALL_END = "<｜tool▁call▁end｜>"
_SECTION = Section("<｜tool▁calls▁begin｜>", _CALL, "<｜tool▁calls▁end｜>", is_special=True)

DSML = "｜DSML｜"
_DSML_SECTION = Section(f"<{DSML}function_calls>", f'<{DSML}invoke name="', f"</{DSML}function_calls>", is_special=True)


def _grammar(answer: Reader, markers: ThoughtMarkers) -> Steps[None]:
    yield from read_thought(answer, markers, _SECTION.begin)
    yield from read_section_calls(answer, _SECTION, _call)


def _call(answer: Reader) -> Steps[Call]:
    yield from answer.expect(_CALL)
    name = yield from answer.word()
    yield from answer.expect(_SEPARATOR)
    if is_v3 := name == "function" and not (yield from answer.is_next("{")):
        name = yield from answer.word()
        yield from answer.space()
        yield from answer.expect("```json")
    yield from answer.space()
    arguments = yield from answer.json_object()
    yield from answer.space()
    if is_v3:
        yield from answer.expect("```")
        yield from answer.space()
    yield from answer.expect(_CALL_END)
    return name, checked(arguments), ""


def _v32_grammar(answer: Reader, markers: ThoughtMarkers) -> Steps[None]:
    yield from read_thought(answer, markers, _DSML_SECTION.begin)
    yield from read_section_calls(answer, _DSML_SECTION, _v32_call)


def _v32_call(answer: Reader) -> Steps[Call]:
    parameter, close, end = f'<{DSML}parameter name="', f"</{DSML}parameter>", f"</{DSML}invoke>"
    yield from answer.expect(_DSML_SECTION.call)
    name = yield from answer.label('">')
    yield from answer.space()
    values: dict[str, str] = {}
    tag = yield from answer.expect(parameter, end)
    while tag == parameter:
        key = yield from answer.label('"')
        kind = yield from answer.expect(' string="true">', ' string="false">')
        text, tag = yield from answer.value(close, parameter, end)
        values[key] = json.dumps(text, ensure_ascii=False) if "true" in kind else json_or_string(text)
    return name, joined(values), ""


def _write(calls: Sequence[Called]) -> str:
    written = (f"{_CALL}function{_SEPARATOR}{name}\n```json\n{arguments}\n```{_CALL_END}" for name, arguments in calls)
    return _SECTION.begin + "\n".join(written) + _SECTION.end


def _write_v31(calls: Sequence[Called]) -> str:
    written = (f"{_CALL}{name}{_SEPARATOR}{arguments}{_CALL_END}" for name, arguments in calls)
    return _SECTION.begin + "".join(written) + _SECTION.end


DEEPSEEK = Dialect(
    "deepseek",
    _grammar,
    _write,
    special_tokens=frozenset((_SECTION.begin, _CALL, _SEPARATOR, _CALL_END, _SECTION.end)),
)
DEEPSEEK_V31 = replace(DEEPSEEK, name="deepseek_v31", write=_write_v31)
DEEPSEEK_V32 = Dialect(
    "deepseek_v32",
    _v32_grammar,
    in_tags(
        _DSML_SECTION.begin,
        f'{_DSML_SECTION.call}{{name}}">',
        f'<{DSML}parameter name="{{key}}" string="{{is_string}}">{{value}}</{DSML}parameter>',
        f"</{DSML}invoke>",
        _DSML_SECTION.end,
    ),
    special_tokens=frozenset((DSML,)),
)

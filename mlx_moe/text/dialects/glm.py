"""GLM-4.5 to GLM-5: thoughts between <think> tags, a call between <tool_call> tags with a tag for each key and value.

Source: the chat templates of the published checkpoints.
"""

from __future__ import annotations

from mlx_moe.text.dialects.calls import Call, read_calls
from mlx_moe.text.dialects.dialect import Dialect
from mlx_moe.text.dialects.reader import Reader, Steps, Tags
from mlx_moe.text.dialects.thought import read_thought
from mlx_moe.text.dialects.written import in_tags
from mlx_moe.text.thought import ThoughtMarkers

_BEGIN = "<tool_call>"
_END = "</tool_call>"
_KEY = "<arg_key>"
_KEY_END = "</arg_key>"
_VALUE = "<arg_value>"
_VALUE_END = "</arg_value>"


def _grammar(answer: Reader, markers: ThoughtMarkers) -> Steps[None]:
    yield from read_thought(answer, markers)
    yield from read_calls(answer, Tags(_BEGIN), _call)


def _call(answer: Reader) -> Steps[Call]:
    yield from answer.expect(_BEGIN)
    yield from answer.space()
    name = yield from answer.word()
    yield from answer.space()
    texts: dict[str, str] = {}
    tag = yield from answer.expect(_KEY, _END)
    while tag == _KEY:
        key = yield from answer.label(_KEY_END)
        yield from answer.space()
        yield from answer.expect(_VALUE)
        texts[key], tag = yield from answer.value(_VALUE_END, _KEY, _END)
    return name, answer.tools.arguments(name, texts), ""


GLM = Dialect(
    "glm",
    _grammar,
    in_tags("", f"{_BEGIN}{{name}}", f"{_KEY}{{key}}{_KEY_END}\n{_VALUE}{{value}}{_VALUE_END}", _END, ""),
    special_tokens=frozenset((_BEGIN, _END, _KEY, _KEY_END, _VALUE, _VALUE_END)),
)

"""Llama 3 and 4: an answer that is a call, or several, in JSON; nothing else marks it than perhaps <|python_tag|>.

So without that tag JSON is a call only where the request has a tool of that name. Calls in the syntax of Python, which
the code interpreter gets, are content.

Source: the chat templates of the published checkpoints.
"""

from __future__ import annotations

from mlx_moe.text.dialects.calls import Call, json_call
from mlx_moe.text.dialects.dialect import Dialect
from mlx_moe.text.dialects.reader import MalformedError, Reader, Steps, Tags
from mlx_moe.text.dialects.thought import read_thought
from mlx_moe.text.dialects.written import in_json
from mlx_moe.text.thought import ThoughtMarkers

_TAG = "<|python_tag|>"


def _grammar(answer: Reader, markers: ThoughtMarkers) -> Steps[None]:
    yield from read_thought(answer, markers)
    if answer.tools and (yield from answer.is_next("{")):
        yield from _calls(answer)
    while (yield from answer.content_up_to(Tags(_TAG), code=False)):
        yield from _calls(answer)


def _calls(answer: Reader) -> Steps[None]:
    """Read a call, and those that follow it directly or after a semicolon."""
    while (yield from answer.attempt(_call(answer))):
        answer.markup((yield from answer.space("; \r\n")))
        if not (yield from answer.is_next("{")):
            return


def _call(answer: Reader) -> Steps[Call]:
    is_tagged = yield from answer.accept(_TAG)
    yield from answer.space()
    call = json_call((yield from answer.json_object()), "parameters")
    if not is_tagged and call[0] not in answer.tools:
        raise MalformedError
    return call


LLAMA = Dialect("llama", _grammar, in_json("", "parameters", "", "; "), special_tokens=frozenset((_TAG,)))

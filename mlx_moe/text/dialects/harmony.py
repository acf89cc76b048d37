"""gpt-oss: the harmony format, in which an answer is several messages, each with a channel and perhaps a recipient.

`analysis` is reasoning; `final`, and `commentary` to nobody, are content; a message to a recipient is a call. The
special tokens that end an answer have no text: a call at its end is complete if its JSON is.

Source: the published description of the format (OpenAI's cookbook, "OpenAI harmony response format").
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlx_moe.text.dialects.calls import Call, checked
from mlx_moe.text.dialects.dialect import Dialect
from mlx_moe.text.dialects.reader import MAX_NAME_CHARACTERS, MalformedError, Reader, Steps, Tags
from mlx_moe.text.dialects.written import Called
from mlx_moe.text.thought import ThoughtMarkers

_START = "<|start|>"
_CHANNEL = "<|channel|>"
_CONSTRAIN = "<|constrain|>"
_MESSAGE = "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")

_NEXT = Tags(_START, _CHANNEL, *_ENDS)
_ALL = Tags(_START, _CHANNEL, _CONSTRAIN, _MESSAGE, *_ENDS)
_RECIPIENT = "to="
_TO = re.compile(r"(?:^|\s)to=(\S+)")
_HEADER = re.compile(
    r"(?:<\|start\|>assistant)?(?P<role>[^<]*)(?:<\|channel\|>\s*(?P<channel>analysis|commentary|final)\b(?P<rest>[^<]*))?"
    r"(?:<\|constrain\|>[^<]*)?<\|message\|>"
)


def _grammar(answer: Reader, _markers: ThoughtMarkers) -> Steps[None]:
    space = yield from answer.space(" ")  # the prompt ends with `<|start|>assistant`, so a recipient may be first
    if (yield from answer.is_next(_RECIPIENT)):
        answer.hold(space)
        yield from _message(answer)
    else:
        answer.content(space)
    while tag := (yield from answer.up_to(_NEXT, answer.content)):
        if tag in _ENDS:
            yield from answer.accept(tag)
            answer.content(tag)
        else:
            yield from _message(answer)


def _message(answer: Reader) -> Steps[None]:
    """Read a message. Where its header is malformed, what was read of it is content."""
    answer.hold()
    try:
        channel, recipient = yield from _header(answer)
    except MalformedError:
        answer.content(answer.release())
        return
    if recipient:
        yield from answer.attempt(_call(answer, recipient))
        return
    answer.markup(answer.release())
    tag = yield from answer.up_to(_NEXT, answer.reasoning if channel == "analysis" else answer.content)
    if tag in _ENDS:
        yield from answer.accept(tag)
        answer.markup(tag)
    else:
        answer.markup()


def _header(answer: Reader) -> Steps[tuple[str, str]]:
    """Read a header; return its channel and its recipient, "" if it has none."""
    pieces: list[str] = []
    while (tag := (yield from answer.up_to(_ALL, pieces.append))) != _MESSAGE:
        if tag in ("", *_ENDS) or (tag == _START and pieces) or sum(map(len, pieces)) > MAX_NAME_CHARACTERS:
            raise MalformedError
        yield from answer.accept(tag)
        pieces.append(tag)
    yield from answer.accept(_MESSAGE)
    header = _HEADER.fullmatch("".join(pieces) + _MESSAGE)
    if header is None:
        raise MalformedError
    to = _TO.search(f"{header['role']} {header['rest'] or ''}")
    return header["channel"] or "", "" if to is None else to[1]


def _call(answer: Reader, recipient: str) -> Steps[Call]:
    yield from answer.space()
    arguments = yield from answer.json_object()
    yield from answer.space()
    if not (yield from answer.is_over()) and not (yield from answer.is_next(_START)):
        yield from answer.expect(*_ENDS)
    return recipient.removeprefix("functions."), checked(arguments), ""


def _write(calls: Sequence[Called]) -> str:
    begin = f"{_START}assistant{_CHANNEL}commentary {_RECIPIENT}functions."
    return "".join(f"{begin}{name} {_CONSTRAIN}json{_MESSAGE}{arguments}<|call|>" for name, arguments in calls)


HARMONY = Dialect(
    "harmony",
    _grammar,
    _write,
    special_tokens=frozenset((_START, _CHANNEL, _CONSTRAIN, _MESSAGE, *_ENDS)),
    turn=f"{_START}assistant",
)

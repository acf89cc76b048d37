"""The rest of an answer: content, and calls that stand between tags, alone or several in a section."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mlx_moe.text.dialects.json_scan import members, parse
from mlx_moe.text.dialects.reader import MalformedError, Reader, Steps, Tags

Call: TypeAlias = tuple[str, str, str]
"""A call's name, its arguments as JSON, and its id or ""."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section of calls.

    Attributes:
        begin, end: the tags around it.
        call: the tag that begins a call in it.
        is_special: the tags are special tokens, which mean the same in a code block and outside of a section.
    """

    begin: str
    call: str
    end: str
    is_special: bool = False


def read_section_calls(answer: Reader, section: Section, call: Callable[[Reader], Steps[Call]]) -> Steps[None]:
    """Read content and sections of calls up to the end of the answer. `call` reads one after its first tag."""
    tags = Tags(section.begin, section.call, section.end)
    is_open = False
    while tag := (yield from answer.content_up_to(tags, code=not (section.is_special or is_open))):
        if tag == section.end and is_open:
            yield from answer.accept(tag)
            answer.markup(tag)
            yield from answer.breaks()
            is_open = False
        elif tag == section.end or not (tag == section.begin or is_open or section.is_special):
            yield from answer.accept(tag)
            answer.content(tag)
        elif (yield from answer.attempt(_first(answer, section, call) if tag == section.begin else call(answer))):
            answer.markup((yield from answer.space()))
            is_open = True


def _first(answer: Reader, section: Section, call: Callable[[Reader], Steps[Call]]) -> Steps[Call]:
    yield from answer.expect(section.begin)
    yield from answer.space()
    return (yield from call(answer))


def read_calls(answer: Reader, begin: Tags, call: Callable[[Reader], Steps[Call]]) -> Steps[None]:
    """Read content and calls that begin with a tag up to the end of the answer. `call` reads one with its tags."""
    while (yield from answer.content_up_to(begin, code=True)):
        if (yield from answer.attempt(call(answer))):
            yield from answer.breaks()


def json_call(text: str, arguments: str = "arguments") -> Call:
    """Return the call in a JSON object with a name and arguments. Raises MalformedError."""
    try:
        found = members(text)
        name, _ = found["name"]
        value, given = found.get(arguments, ({}, "{}"))
        if isinstance(value, str):  # some models quote the object
            value, given = parse(value), value
    except (ValueError, KeyError) as exc:
        raise MalformedError from exc
    if not (isinstance(name, str) and name and isinstance(value, dict)):
        raise MalformedError
    return name, given, ""


def checked(arguments: str) -> str:
    """Return the arguments if they are a JSON object. Raises MalformedError."""
    try:
        is_object = isinstance(parse(arguments), dict)
    except ValueError as exc:
        raise MalformedError from exc
    if not is_object:
        raise MalformedError
    return arguments

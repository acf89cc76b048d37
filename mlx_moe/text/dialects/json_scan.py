"""JsonScan: finds where a JSON object ends in a text that arrives in pieces, and where it can no longer be one."""

from __future__ import annotations

import json
import re
from typing import Any

_STRING_END = re.compile(r'["\\\x00-\x1f]')
_STRUCTURE = re.compile(r'["{}\[\]]|[^\s:,0-9a-z+\-.E]')
_CLOSING = {"{": "}", "[": "]"}


class JsonScan:
    """Reads one object, beginning at its `{`; each character is looked at once.

    It is strict where that tells an object from other text early: no raw control characters in strings, so an open
    string ends at the next line, and no other characters than those of JSON outside of them. `json` checks the rest.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self.is_broken = False
        self._open: list[str] = []
        self._in_string = False
        self._escaped = False

    def scan(self, text: str, start: int) -> int:
        """Read on in `text` from `start`; return where the object ends, breaks, or the text ends."""
        at = start
        while at < len(text) and not self.is_complete:
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_STRING_END if self._in_string else _STRUCTURE).search(text, at)
            if not self._open and (found is None or found.start() > at or found[0] != "{"):
                self.is_broken = True
                return at
            if found is None:
                return len(text)
            if not self._accept(found[0]):
                self.is_broken = True
                return found.start()
            at = found.end()
        return at

    def _accept(self, character: str) -> bool:
        if self._in_string:
            self._in_string = character == "\\"
            self._escaped = character == "\\"
            return character in '"\\'
        if character == '"':
            self._in_string = True
        elif character in _CLOSING:
            self._open.append(_CLOSING[character])
        elif self._open[-1] == character:
            self._open.pop()
            self.is_complete = not self._open
        else:
            return False
        return True


def parse(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError, also for values that only Python's reader accepts."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as exc:
        raise ValueError("nested too deeply") from exc


def members(text: str) -> dict[str, tuple[Any, str]]:
    """Return the value and its text for each key of a JSON object. Raises ValueError."""
    if not isinstance(parse(text), dict):
        raise ValueError("not an object")
    decoder, found = json.JSONDecoder(), {}
    at = _after_space(text, text.index("{") + 1)
    while text[at] != "}":
        key, at = decoder.raw_decode(text, at)
        start = _after_space(text, text.index(":", at) + 1)
        value, end = decoder.raw_decode(text, start)
        found[key] = (value, text[start:end])
        at = _after_space(text, end)
        at = _after_space(text, at + 1) if text[at] == "," else at
    return found


def _after_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")

"""Reader: the text of an answer as it arrives, for the grammar of a dialect to read, and the parts it has become.

A grammar is a generator that yields when it needs more text, so it is written as if the whole answer were there. What
it reads does not depend on how the text was cut. Knows no dialect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from mlx_moe.text.dialects.json_scan import JsonScan
from mlx_moe.text.dialects.parts_writer import PartsWriter
from mlx_moe.text.dialects.tools import Tools

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
"""A reading that yields whenever it needs more text, and returns T."""

MAX_NAME_CHARACTERS = 256

_WORD = re.compile(r"[\w\-.:/]")
_SPACE = " \t\r\n"
_FENCES = ("```", "~~~")


class MalformedError(Exception):
    """A reading that was tried does not fit; never leaves this package."""


class Tags:
    """Texts to search for; none of them contains another one."""

    def __init__(self, *tags: str) -> None:
        self.tags = tags
        self._pattern = re.compile("|".join(map(re.escape, tags)))
        self._first = frozenset(tag[0] for tag in tags)
        self._longest = max(map(len, tags))

    def find(self, text: str, start: int) -> tuple[int, str]:
        """Return where the first tag begins, and the tag; at the end and "" if there is none."""
        found = self._pattern.search(text, start)
        return (len(text), "") if found is None else (found.start(), found[0])

    def held(self, text: str, start: int) -> int:
        """Return how many characters at the end may begin a tag."""
        for at in range(max(start, len(text) - self._longest + 1), len(text)):
            if text[at] in self._first and any(tag.startswith(text[at:]) for tag in self.tags):
                return len(text) - at
        return 0


class Reader(PartsWriter):
    """The part of an answer that was not read yet, and what the rest has become. Reading is linear in the length."""

    def __init__(self, tools: Tools) -> None:
        super().__init__()
        self.tools = tools
        self._text = ""
        self._at = 0
        self._is_over = False
        self._held: list[str] | None = None

    def feed(self, text: str) -> None:
        """Add text."""
        self._text, self._at = self._text[self._at :] + text, 0

    def end(self) -> None:
        """Say that no more text comes."""
        self._is_over = True

    def accept(self, literal: str) -> Steps[bool]:
        """Read a literal if it is next."""
        if fits := (yield from self.is_next(literal)):
            self._take(len(literal))
        return fits

    def is_next(self, literal: str) -> Steps[bool]:
        """Whether a literal is next, which stays unread; waits only while the text may be its beginning."""
        while not self._is_over and self._is_beginning(literal):
            yield
        return self._text.startswith(literal, self._at)

    def expect(self, *literals: str) -> Steps[str]:
        """Read the one of the literals that is next. Raises MalformedError."""
        for literal in literals:
            if (yield from self.accept(literal)):
                return literal
        raise MalformedError

    def is_over(self) -> Steps[bool]:
        """Whether the answer ends here."""
        while not self._is_over and self._at == len(self._text):
            yield
        return self._at == len(self._text)

    def space(self, characters: str = _SPACE) -> Steps[str]:
        """Read whitespace, or a run of other characters."""
        taken: list[str] = []
        while True:
            end = self._at
            while end < len(self._text) and self._text[end] in characters:
                end += 1
            taken.append(self._take(end - self._at))
            if end < len(self._text) or self._is_over:
                return "".join(taken)
            yield

    def word(self) -> Steps[str]:
        """Read a name of letters, digits and `_-.:/`. Raises MalformedError if it is empty or long."""
        word = ""
        while not (yield from self.is_over()) and _WORD.match(self._text, self._at):
            word += self._take(1)
            if len(word) > MAX_NAME_CHARACTERS:
                raise MalformedError
        if not word:
            raise MalformedError
        return word

    def label(self, close: str) -> Steps[str]:
        """Read a name up to `close`, with it. Raises MalformedError if it is empty, long, or has line breaks."""
        pieces: list[str] = []
        if (yield from self.up_to(Tags(close, "\n"), pieces.append)) != close or not any(pieces):
            raise MalformedError
        self._take(len(close))
        label = "".join(pieces)
        if len(label) > MAX_NAME_CHARACTERS:
            raise MalformedError
        return label

    def up_to(self, tags: Tags, take: Callable[[str], None]) -> Steps[str]:
        """Read text in pieces up to the next tag, which is returned and stays unread; "" at the end of the answer."""
        while True:
            end, tag = tags.find(self._text, self._at)
            if not tag and not self._is_over:
                end -= tags.held(self._text, self._at)
            if end > self._at:
                take(self._take(end - self._at))
            if tag or self._is_over:
                return tag
            yield

    def to_the_end(self, take: Callable[[str], None]) -> Steps[None]:
        """Read the rest of the answer."""
        while not (yield from self.is_over()):
            take(self._take(len(self._text) - self._at))

    def value(self, close: str, *following: str) -> Steps[tuple[str, str]]:
        """Read text up to `close`, whitespace and one of `following`; return the text and which one.

        `close` before something else is part of the text. Raises MalformedError.
        """
        pieces: list[str] = []
        while (yield from self.up_to(Tags(close), pieces.append)):
            end = len(pieces)
            pieces.append(self._take(len(close)))
            pieces.append((yield from self.space()))
            for literal in following:
                if (yield from self.accept(literal)):
                    return "".join(pieces[:end]), literal
        raise MalformedError

    def json_object(self) -> Steps[str]:
        """Read a JSON object. Raises MalformedError as soon as it cannot be one."""
        scan, pieces = JsonScan(), []
        while not scan.is_complete:
            pieces.append(self._take(scan.scan(self._text, self._at) - self._at))
            if scan.is_broken or (self._is_over and not scan.is_complete):
                raise MalformedError
            if not scan.is_complete:
                yield
        return "".join(pieces)

    def content_up_to(self, tags: Tags, *, code: bool) -> Steps[str]:
        """Read content up to the next tag, which is returned and stays unread; with `code` not one in a code block."""
        searched = Tags(*tags.tags, *_FENCES) if code else tags
        while (tag := (yield from self.up_to(searched, self.content))) in _FENCES:
            if not self.at_line_start:
                self.content(self._take(len(tag)))
                continue
            fence = yield from self.space(tag[0])
            self.content(fence)
            yield from self._code_block(fence)
        return tag

    def _code_block(self, fence: str) -> Steps[None]:
        """Read content up to a fence that is at least as long as the one that opened the block."""
        ends = Tags(fence)
        while (yield from self.up_to(ends, self.content)):
            is_end = self.at_line_start
            self.content((yield from self.space(fence[0])))
            if is_end:
                return

    def breaks(self) -> Steps[None]:
        """Read line breaks after markup, which belong to it."""
        self.markup((yield from self.space("\r\n")))

    def attempt(self, reading: Steps[tuple[str, str, str]]) -> Steps[bool]:
        """Read a call: its name, arguments and id. Where it is malformed what was read of it becomes content."""
        self.hold()
        try:
            name, arguments, call_id = yield from reading
        except MalformedError:
            self.content(self.release())
            return False
        self.call(name, arguments, call_id, self.release())
        return True

    def hold(self, before: str = "") -> None:
        """Keep what is read from here on, and what was read just before, until `release`."""
        if self._held is None:
            self._held = [before]

    def release(self) -> str:
        """Return what was read since `hold`."""
        held, self._held = self._held or [], None
        return "".join(held)

    def _take(self, count: int) -> str:
        taken = self._text[self._at : self._at + count]
        self._at += count
        if self._held is not None:
            self._held.append(taken)
        return taken

    def _is_beginning(self, literal: str) -> bool:
        rest = self._text[self._at : self._at + len(literal)]
        return len(rest) < len(literal) and literal.startswith(rest)

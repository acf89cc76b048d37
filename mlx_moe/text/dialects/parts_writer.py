"""PartsWriter: what an answer has become so far, as parts.

Line breaks next to markup belong to it, so those at the end of a text are held back until something follows. Two texts
of a kind with markup between them are two paragraphs.
"""

from __future__ import annotations

from mlx_moe.text.dialects.parts import Content, Markup, Part, Reasoning, ToolCall

_PARAGRAPH = "\n\n"


class PartsWriter:
    """Collects parts. `at_line_start`: the content so far ends with a line break, and perhaps spaces."""

    def __init__(self) -> None:
        self.at_line_start = True
        self._parts: list[Part] = []
        self._calls = 0
        self._breaks: list[str] = []
        self._kind: type[Reasoning] | type[Content] = Content
        self._written: set[type[Part]] = set()
        self._apart: set[type[Part]] = set()

    def drain(self) -> list[Part]:
        """Return the parts since the last call."""
        parts, self._parts = self._parts, []
        return parts

    def reasoning(self, text: str) -> None:
        """Add text that was read to the reasoning."""
        self._write(Reasoning, text)

    def content(self, text: str) -> None:
        """Add text that was read to the content."""
        _, line_break, line = text.rpartition("\n")
        self.at_line_start = bool(line_break or self.at_line_start) and not line.strip(" ")
        self._write(Content, text)

    def markup(self, text: str = "") -> None:
        """Add tags that were read, with the line breaks before them."""
        source = "".join(self._breaks) + text
        self._breaks.clear()
        if source:
            self._parts.append(Markup(source))
        self._apart = set(self._written)
        self.at_line_start = True

    def call(self, name: str, arguments: str, call_id: str, source: str) -> None:
        """Add a tool call."""
        self.markup()
        self._parts.append(ToolCall(self._calls, name, arguments, call_id, source))
        self._calls += 1

    def flush(self) -> None:
        """Write the line breaks held back as text."""
        if self._breaks:
            breaks = "".join(self._breaks)
            self._breaks.clear()
            self._parts.append(self._kind(breaks, breaks))

    def _write(self, kind: type[Reasoning] | type[Content], text: str) -> None:
        body = text.rstrip("\n")
        if body:
            self.flush()
            if kind in self._apart:
                self._parts.append(kind(_PARAGRAPH, ""))
                self._apart.remove(kind)
            self._written.add(kind)
            self._parts.append(kind(body, body))
        self._kind = kind
        if breaks := text[len(body) :]:
            self._breaks.append(breaks)

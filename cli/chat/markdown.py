"""Markdown for the terminal: rich's, with line breaks and HTML kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.markdown import CodeBlock, Heading, ListItem, Markdown, MarkdownElement, TableElement
from rich.segment import Segment
from rich.syntax import Syntax
from rich.table import Table

from cli.chat.maths import maths

_parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable("strikethrough").enable("table")
_parser.disable("image")  # show the address, not a placeholder
_parser.use(maths)


def finished_length(text: str) -> int:
    """Return the length of the blocks at the start of `text` that further text cannot change.

    The last block is still open. An incomplete line does not start a block: "2" may become "2. second" and continue
    the list before it.
    """
    complete = text.rfind("\n") + 1
    starts = [t.map[0] for t in _parser.parse(text[:complete]) if t.level == 0 and t.map and t.nesting >= 0]
    if len(starts) < 2:
        return 0
    return sum(len(line) for line in text.splitlines(keepends=True)[: starts[-1]])


class ChatMarkdown(Markdown):
    """Markdown for the chat. Links show their address: a model must not hide it."""

    def __init__(self, markup: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.markup = markup
        self.parsed = list(_with_line_breaks(_parser.parse(markup)))

    elements: ClassVar[dict[str, type[MarkdownElement]]]


class _LeftHeading(Heading):
    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = dict.fromkeys(("h1", "h2", "h3", "h4", "h5", "h6"), "left")


class _NumberedItem(ListItem):
    """A list item with a dot after its number."""

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        width = len(str(last_number)) + 3
        lines = console.render_lines(self.elements, options.update(width=options.max_width - width))
        numeral = Segment(f"{number}. ".rjust(width), console.get_style("markdown.item.number"))
        for index, line in enumerate(lines):
            yield numeral if index == 0 else Segment(" " * width)
            yield from line
            yield Segment.line()


class _EdgelessTable(TableElement):
    """A table without the empty lines around it."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)
            table.show_edge = False
            yield table


class _PlainCodeBlock(CodeBlock):
    """Code indented by two, without a background, so that copied lines have no trailing spaces."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(
            str(self.text).rstrip("\n"),
            self.lexer_name,
            theme=self.theme,
            word_wrap=True,
            padding=(0, 0, 0, 2),
            background_color="default",
        )


ChatMarkdown.elements = {
    **Markdown.elements,
    "heading_open": _LeftHeading,
    "list_item_open": _NumberedItem,
    "table_open": _EdgelessTable,
    "fence": _PlainCodeBlock,
    "code_block": _PlainCodeBlock,
}


def _with_line_breaks(tokens: Iterable[Token]) -> Iterable[Token]:
    for token in tokens:
        if token.children:
            token.children = list(_with_line_breaks(token.children))
        if token.type == "softbreak":
            token.type = "hardbreak"
        yield token

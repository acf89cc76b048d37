r"""Maths: a plugin for markdown-it that keeps LaTeX source unchanged: \( … \), \[ … \] and $$ … $$.

CommonMark removes the backslash before a bracket and reads * and _ as emphasis. Nothing is typeset.
"""

from __future__ import annotations

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline

_CLOSING = {r"\(": r"\)", r"\[": r"\]", "$$": "$$"}

_LITERAL = tuple("()[]{},;:%&")
"""Characters whose backslash stays: LaTeX needs it, Markdown does not."""


def maths(parser: MarkdownIt) -> None:
    """Add the rules."""
    parser.inline.ruler.before("escape", "maths", _inline)
    parser.block.ruler.before("fence", "maths", _block, {"alt": ["paragraph", "blockquote"]})


def _inline(state: StateInline, silent: bool) -> bool:
    opening = state.src[state.pos : state.pos + 2]
    end = _end(state.src, state.pos, opening)
    if end is None and opening[:1] == "\\" and opening[1:] in _LITERAL:
        end = state.pos + 2
    if end is None:
        return False
    if not silent:
        for number, line in enumerate(state.src[state.pos : end].split("\n")):
            if number:
                state.push("hardbreak", "br", 0)
            state.pending += line
    state.pos = end
    return True


def _end(text: str, start: int, opening: str) -> int | None:
    """Return the end of the formula that opens at `start`; None if another opens before it."""
    if opening not in _CLOSING:
        return None
    end = text.find(_CLOSING[opening], start + 2)
    return end + 2 if end >= 0 and text.find(opening, start + 2, end) < 0 else None


def _block(state: StateBlock, first: int, end: int, silent: bool) -> bool:
    r"""Take the lines of a formula from \[ or $$ to its end or an empty line, so that they are not read as lists."""
    text = state.src[state.bMarks[first] + state.tShift[first] : state.eMarks[first]]
    closing = _CLOSING.get(text[:2], "")
    if state.is_code_block(first) or text[:2] not in (r"\[", "$$") or closing in text[2:]:
        return False
    after, is_closed = first + 1, False
    while not is_closed and after < end and not state.isEmpty(after):
        is_closed = closing in state.src[state.bMarks[after] : state.eMarks[after]]
        after += 1
    if silent:
        return True
    state.push("paragraph_open", "p", 1).map = [first, after]
    inline = state.push("inline", "", 0)
    inline.content = state.getLines(first, after, state.blkIndent, False).strip()
    inline.map, inline.children = [first, after], []
    state.push("paragraph_close", "p", -1)
    state.line = after
    return True

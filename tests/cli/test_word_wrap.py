"""How an answer in pieces is broken between words, as a terminal shows it."""

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.word_wrap import WordWrap


def shown(pieces: list[str], columns: int) -> list[str]:
    """Return a terminal's lines after pieces of a text."""
    screen = pyte.Screen(columns, 50)
    screen.set_mode(pyte.modes.LNM)  # the terminal's driver makes a line feed a whole line break
    wrap, stream = WordWrap(), pyte.Stream(screen)
    for piece in pieces:
        stream.feed(wrap.feed(piece, columns))
    return [line.rstrip() for line in "\n".join(screen.display).rstrip().split("\n")]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("an expert is a small network", ["an expert", "is a small", "network"]),
        ("0123456789 abc", ["0123456789", "abc"]),
        ("to https://example.org ok", ["to", "https://exam", "ple.org ok"]),
        ("a\n\n  indented code", ["a", "", "  indented", "code"]),
        ("see 中文中文中文 end", ["see 中文中", "文中文 end"]),
        ("1\t2 three four", ["1       2", "three four"]),
    ],
)
def test_words_are_whole_where_a_line_has_room_for_them(text: str, lines: list[str]) -> None:
    for pieces in ([text], list(text), [text[:7], text[7:]]):
        assert shown(pieces, 12) == lines


@given(st.lists(st.text("ab \n-", max_size=8), max_size=12), st.integers(5, 30))
def test_nothing_is_lost_and_no_word_is_torn(pieces: list[str], columns: int) -> None:
    text = "".join(pieces)
    lines = shown(pieces, columns)
    assert "".join("".join(lines).split()) == "".join(text.split())
    short = [word for word in text.split() if len(word) < columns]
    if len(short) == len(text.split()):
        assert " ".join(lines).split() == text.split()

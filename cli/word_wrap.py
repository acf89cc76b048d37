"""WordWrap: wraps streamed text between words; a terminal alone would wrap within words."""

from __future__ import annotations

from rich.cells import cell_len

_TAB_COLUMNS = 8


class WordWrap:
    """Converts pieces of text into terminal output.

    Characters are shown at once; a word that does not fit is erased and repeated on the next line. The terminal wraps
    a word longer than a line, so that a URL can be copied in one piece.
    """

    def __init__(self) -> None:
        self._column = 0
        self._word = ""  # the part of the last word that is on this line

    def feed(self, text: str, columns: int) -> str:
        """Return the output for a piece of text on a terminal of `columns` columns."""
        return "".join(self._placed(character, columns) for character in text)

    def _placed(self, character: str, columns: int) -> str:
        if character == "\n":
            self._column, self._word = 0, ""
        elif character == "\t":
            self._column, self._word = (self._column // _TAB_COLUMNS + 1) * _TAB_COLUMNS, ""
        elif character == " ":
            self._column, self._word = self._column + 1, ""
            if self._column >= columns:  # the line ends here anyway
                self._column = 0
                return "\n"
        else:
            return self._lengthened(character, columns)
        return character

    def _lengthened(self, character: str, columns: int) -> str:
        """Add a character to the word."""
        width, written = cell_len(character), cell_len(self._word)
        if width > 1:  # Chinese and Japanese text may wrap anywhere
            self._word, written = "", 0
        begins_at, self._column, self._word = self._column - written, self._column + width, self._word + character
        # Keep the last column free: after it the cursor position is undefined.
        if self._column < columns or (begins_at == 0 and self._column == columns):
            return character
        if begins_at == 0:
            self._column, self._word = width, character  # the terminal breaks it
            return character
        self._column = cell_len(self._word)
        back = f"\x1b[{written}D\x1b[K" if written else ""
        return f"{back}\n{self._word}"

"""WordWrap: breaks streamed text between words; a terminal itself breaks lines within words."""

from __future__ import annotations

from rich.cells import cell_len

_TAB_COLUMNS = 8


class WordWrap:
    """Turns pieces of a text into what a terminal is to be given.

    Letters are shown as they come; a word that proves too long for its line is taken to the next one. One that is
    longer than a whole line is left to the terminal, so that an address can be copied in one piece.
    """

    def __init__(self) -> None:
        self._column = 0
        self._word = ""  # the part of the last word that is on this line

    def feed(self, text: str, columns: int) -> str:
        """Return what to write for a piece of the text, on a terminal of so many columns."""
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
        if width > 1:  # Chinese and Japanese text may be broken anywhere
            self._word, written = "", 0
        begins_at, self._column, self._word = self._column - written, self._column + width, self._word + character
        # The last column stays free: a cursor behind it is nowhere that it could be moved back from.
        if self._column < columns or (begins_at == 0 and self._column == columns):
            return character
        if begins_at == 0:
            self._column, self._word = width, character  # the terminal breaks it
            return character
        self._column = cell_len(self._word)
        back = f"\x1b[{written}D\x1b[K" if written else ""
        return f"{back}\n{self._word}"

"""Byte level: the visible character that stands for each byte in a byte-level vocabulary."""

from __future__ import annotations


def _alphabet() -> dict[int, str]:
    """Return the character of each byte: printable Latin-1 stands for itself, the others start at U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = (byte for byte in range(0x100) if byte not in printable)
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + n) for n, byte in enumerate(rest)}


CHARACTER_OF = _alphabet()
BYTE_OF = {character: byte for byte, character in CHARACTER_OF.items()}

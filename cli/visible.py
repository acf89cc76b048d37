"""Makes text safe to print: a model or a file must not control the terminal by escape sequences."""

from __future__ import annotations

from pathlib import PurePath

_CONTROL_PICTURES = 0x2400
_REPLACEMENT = 0xFFFD

_TABLE: dict[int, int | None] = {code: _CONTROL_PICTURES + code for code in range(0x20)}
_TABLE |= {0x7F: 0x2421}
_TABLE |= dict.fromkeys(range(0x80, 0xA0), _REPLACEMENT)  # C1: 0x9B begins a sequence, as ESC [ does
_TABLE |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), _REPLACEMENT)  # bidirectional controls
_TABLE |= dict.fromkeys(range(0xD800, 0xE000), _REPLACEMENT)  # surrogates cannot be encoded
_TABLE |= {ord("\r"): None}
for _kept in "\n\t":
    del _TABLE[ord(_kept)]


def visible(text: str) -> str:
    """Return `text` with control characters replaced by visible symbols; newlines and tabs stay."""
    return text.translate(_TABLE)


def short_name(model: str) -> str:
    """Return a model's name without the directory or organisation before it."""
    return visible(PurePath(model).name or model)

"""The start of an answer that its prompt has already, such as the marker of a model that thinks first."""

from __future__ import annotations

from collections.abc import Sequence

from cli.backend import Backend

PROMPT_ENDING = 64
"""Number of tokens at the end of a prompt that may contain it; each token has at least one byte."""


def begun_answer(backend: Backend, prompt_ids: Sequence[int]) -> str:
    """Return the end of a prompt that belongs to the answer, "" if there is none."""
    return backend.dialect.opening(backend.decode(prompt_ids[-PROMPT_ENDING:], skip_special_tokens=False))

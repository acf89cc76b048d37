"""A scene: the smallest piece of conversation that makes sense alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

_HELD_OUT_SHARE = 40


@dataclass(frozen=True, slots=True)
class Turn:
    """Hold one question and its answer. A verbatim question is copied by its answer: no typing errors."""

    user: str
    assistant: str
    verbatim: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """Hold turns in order; other scenes of a conversation may come between them.

    `key` names what is being asked, and decides whether the scene is held out. Of the scenes with the
    same `claim`, a conversation holds at most one, for they would contradict each other.
    """

    key: str
    turns: tuple[Turn, ...]
    claim: str = ""
    together: bool = False


Writer = Callable[[Random], Scene]


def ask(user: str, assistant: str, key: str = "", verbatim: bool = False) -> Scene:
    """Return a scene of one turn, whose key is the question unless one is given."""
    return Scene(key or user, (Turn(user, assistant, verbatim),))


def is_held_out(key: str) -> bool:
    """Say whether the scenes with this key are kept from training; the same for every seed."""
    return hashlib.sha256(key.lower().encode()).digest()[0] % _HELD_OUT_SHARE == 1

"""Finding: the result of one check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How good what was found is, the best first."""

    OK = "ok"
    NOT_CHECKED = "not checked"
    WARNING = "warning"
    PROBLEM = "problem"


_ORDER = tuple(State)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, as phrases. `cures` are commands to paste, or a sentence where no command helps."""

    name: str
    state: State
    found: tuple[str, ...]
    cures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Remark:
    """A part of a finding."""

    text: str
    state: State = State.OK
    cure: str = ""


def finding(name: str, remarks: Iterable[Remark]) -> Finding:
    """Return the finding that consists of remarks, the worst of which gives the state."""
    remarks = [remark for remark in remarks if remark.text]
    state = max((remark.state for remark in remarks), key=_ORDER.index)
    cures = dict.fromkeys(remark.cure for remark in remarks if remark.cure)
    return Finding(name, state, tuple(remark.text for remark in remarks), tuple(cures))


def not_checked(name: str, reason: str) -> Finding:
    """Return the finding of a check that could not be made."""
    return Finding(name, State.NOT_CHECKED, (reason,))

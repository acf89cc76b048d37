"""Wanted: a model that is asked for, and how it is to be placed."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.placement import Placement


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, and how to place it: by a plan, or as the cluster finds best. 0 is what the cluster chooses.

    `draft` is "mtp", "ngram", "none" or a small model of the same vocabulary; "" the best that the model supports.
    With `replace` it takes the place of another model that is idle. `chunk` is the length of every prompt's chunks.
    """

    model: str
    plan: Placement | None = None
    context_tokens: int = 0
    users: int = 0
    draft: str = ""
    replace: bool = False
    chunk: int = 0

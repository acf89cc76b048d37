"""Wanted: a requested model, and how to place it."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.placement import Placement


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, and how to place it: by a plan, or by the cluster's choice. 0 means that the cluster chooses.

    `draft` is "mtp", "ngram", "none" or a small model with the same vocabulary; "" is the best that the model supports.
    With `replace` it replaces another idle model. `chunk` is the length of every prompt's chunks; `latency_s` is how
    long a prompt may delay the next token of another answer, in place of `chunk`. `download` allows
    downloads to the nodes' disks, `keep` keeps there what is read from other nodes. `bits` and `mode` ("": affine) are
    the quantization of its weights while they are loaded; 0 is as stored. `standby` keeps a spare copy of
    a stage in the memory of another node, where there is room.
    """

    model: str
    plan: Placement | None = None
    context_tokens: int = 0
    users: int = 0
    draft: str = ""
    replace: bool = False
    chunk: int = 0
    latency_s: float = 0.0
    download: bool = False
    keep: bool = False
    bits: int = 0
    mode: str = ""
    standby: bool = False

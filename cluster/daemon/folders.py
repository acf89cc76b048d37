"""Folders: the directories below HOME/models, in which this node keeps what it has of models."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

from cluster.daemon.copies import Copy
from cluster.home import Home
from cluster.placement import Placement
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.recipe import AS_STORED
from mlx_moe.manifest import digest_of


def folder_of(home: Home, model: str) -> Path:
    """Return the folder for copies of a model: org--name, or the last part of a path."""
    match = library.REPO_ID.fullmatch(model)
    name = match[1].replace("/", "--") if match else re.sub(r"[^A-Za-z0-9_-]+", "-", Path(model).name) or "model"
    return home.models / name


def conversion_of(home: Home, placement: Placement, copy: Copy, *, keep: bool) -> Path | None:
    """Return where this node keeps its part of a model quantized as it is placed; None: it does not keep it.

    It does if it is asked to `keep` it, if it has begun to, or if it keeps what it lacks of this copy anyway. The name
    says of which content and how: all nodes that quantize the same rows write the same bytes.
    """
    if placement.recipe == AS_STORED:
        return None
    name = digest_of([placement.content_hash, json.dumps(asdict(placement.recipe), sort_keys=True)], size=16)
    directory = folder_of(home, placement.model) / name
    is_kept = keep or directory.exists() or (copy.is_outline and copy.directory.is_relative_to(home.models))
    return directory if is_kept else None

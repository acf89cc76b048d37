"""Origin: which files of which commit of a hub's repository a directory is made of, with their sizes and digests.

It is stored in the directory as origin.json. It has no endpoint and no token, so that copies from a mirror are equal.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_moe.checkpoint import durable_file, json_file
from mlx_moe.errors import CheckpointError

NAME = "origin.json"

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class OriginFile:
    """A file of the repository; `sha256` is "" if the hub does not tell it, as for small files."""

    size: int
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """A commit of a repository; an empty `repo_id` means that a directory does not come from a hub."""

    repo_id: str = ""
    commit: str = ""
    files: Mapping[str, OriginFile] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path) -> Origin:
        """Read the origin of a directory; an empty one if none is stored.

        Raises:
            CheckpointError: the stored one is damaged.
        """
        path = directory / NAME
        return _parse(path) if path.exists() else cls()

    def store(self, directory: Path) -> None:
        """Store it in a directory, which is created. Raises CheckpointError if it cannot be written."""
        files = {name: {"size": file.size, "sha256": file.sha256} for name, file in sorted(self.files.items())}
        text = json.dumps({"repo_id": self.repo_id, "commit": self.commit, "files": files}, indent=1)
        with durable_file.written(directory / NAME, len(text)):
            directory.mkdir(parents=True, exist_ok=True)
            durable_file.write(directory / NAME, text.encode())

    @property
    def identity(self) -> str:
        """A digest that is equal for equal weight files; "" for a directory that does not come from a hub.

        Another commit, or another repository, with the same weight files has the same identity, unless the hub does not
        tell the digests of all: then it is that of the commit.
        """
        digests = sorted((name, file.sha256) for name, file in self.files.items() if name.endswith(".safetensors"))
        if not self.repo_id:
            return ""
        if not digests or not all(sha256 for _, sha256 in digests):
            digests = [(self.repo_id, self.commit)]
        return hashlib.blake2b(json.dumps(digests).encode(), digest_size=16).hexdigest()


def _parse(path: Path) -> Origin:
    entries = json_file.read(path)
    repo_id, commit, files = entries.get("repo_id"), entries.get("commit"), entries.get("files")
    if not isinstance(repo_id, str) or not isinstance(commit, str) or not isinstance(files, dict):
        raise CheckpointError(f"{path} is damaged: delete it, and pull the model again")
    return Origin(repo_id, commit, {name: _file(path, name, entry) for name, entry in files.items()})


def _file(path: Path, name: str, entry: Any) -> OriginFile:
    match entry:
        case {"size": int(size), "sha256": str(sha256)} if size >= 0 and (not sha256 or _SHA256.fullmatch(sha256)):
            return OriginFile(size, sha256)
    raise CheckpointError(f"{path}: the entry of {name[:200]!r} is damaged: delete this file, and pull the model again")

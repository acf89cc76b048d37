"""WeightFiles: the files of a model directory that contain its weights, by their names and the index.

Reads no headers. The index is only a hint: a file contains what its own header says.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlx_moe.checkpoint import json_file
from mlx_moe.checkpoint.tensor_file import HEADER_SUFFIX
from mlx_moe.errors import CheckpointError

log = logging.getLogger(__name__)

INDEX_NAME = "model.safetensors.index.json"

_INDEXED_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.safetensors")
_SHARD_NAME = re.compile(r"(.+)-\d{5}(-of-0?(\d{5})\.safetensors)")


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The safetensors files of a directory, also those of which only the header is there.

    `own` are the model's files: those in the index, and `model*.safetensors`; if there are none of these, all. `others`
    are the remaining ones: adapters, consolidated copies. `missing` are file names that the index, or the numbering of
    the shards, requires. `weight_map` is the index: file names by tensor.
    """

    directory: Path
    own: tuple[Path, ...]
    others: tuple[Path, ...]
    missing: tuple[str, ...]
    weight_map: Mapping[str, str]

    @classmethod
    def of(cls, directory: Path) -> WeightFiles:
        """List a directory's files.

        Raises:
            CheckpointError: it cannot be read, or its index names files outside it.
        """
        weight_map = _read_index(directory)
        indexed = set(weight_map.values())
        try:
            found = sorted({path for entry in directory.iterdir() if _is_weights(path := _whole(entry), entry)})
        except OSError as exc:
            raise CheckpointError(f"{directory} cannot be read: {exc.strerror}") from exc
        own = tuple(path for path in found if path.name in indexed or path.name.startswith("model")) or tuple(found)
        names = {path.name for path in found}
        others = names - {path.name for path in own}
        missing = (indexed or _numbered(names) or (set() if own else _broken_links(directory))) - names
        return cls(directory, own, tuple(map(directory.joinpath, sorted(others))), tuple(sorted(missing)), weight_map)

    def missing_text(self) -> str:
        """Return a text with the number of missing files and the first ones: "2 of 5 files are missing (a, b)"."""
        shown = ", ".join(map(self._shown, self.missing[:3])) + (", ..." if len(self.missing) > 3 else "")
        promised = len(set(self.weight_map.values())) or len(self.own) + len(self.missing)
        return f"{len(self.missing)} of {promised} files are missing ({shown})"

    def _shown(self, name: str) -> str:
        path = self.directory / name
        return f"{name}, a link to {os.readlink(path)}" if path.is_symlink() else name


def _whole(entry: Path) -> Path:
    """Return the path of the weight file to which an entry of the directory belongs."""
    return entry.with_name(entry.name.removesuffix(HEADER_SUFFIX))


def _is_weights(path: Path, entry: Path) -> bool:
    """Whether an entry exists and has the name of weights; macOS writes `._NAME` beside NAME on other file systems."""
    return path.suffix.lower() == ".safetensors" and not path.name.startswith(".") and os.path.exists(entry)


def _broken_links(directory: Path) -> set[str]:
    """Return the names of weights that are broken links, or links in a circle."""
    return {path.name for path in directory.glob("[!.]*.safetensors") if path.is_symlink() and not os.path.exists(path)}


def _numbered(names: set[str]) -> set[str]:
    """Return all names of each numbered set of which `names` has some: NAME-00001-of-00002.safetensors, ..."""
    sets = {(match[1], match[2], int(match[3])) for name in names if (match := _SHARD_NAME.fullmatch(name))}
    return {f"{stem}-{number:05}{rest}" for stem, rest, count in sets for number in range(1, count + 1)}


def _read_index(directory: Path) -> dict[str, str]:
    path = directory / INDEX_NAME
    if not path.exists():
        return {}
    try:
        weight_map = json_file.read(path).get("weight_map")
    except CheckpointError as error:
        log.debug("event=index_unread error=%s", error)
        return {}
    entries = weight_map if isinstance(weight_map, dict) else {}
    files = {tensor: name for tensor, name in entries.items() if isinstance(name, str)}
    if not files or len(files) < len(entries):
        log.debug("event=index_damaged path=%s entries=%d usable=%d", path, len(entries), len(files))
    for name in set(files.values()):
        if not _INDEXED_NAME.fullmatch(name):
            raise CheckpointError(f"{path}: {name[:200]!r} is not the name of a safetensors file in the directory")
    return files

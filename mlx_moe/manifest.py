"""Manifest: what a model consists of, field by field and parameter by parameter, with digests that identify it.

Two models with the same manifest hash compute the same. Where the bytes are, in which files and ranges, does not matter
for that. Knows nothing about how the digests are made (`mlx_moe.content`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlx_moe.checkpoint import json_file
from mlx_moe.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Run:
    """A range of bytes of a file in the model's directory."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One array of a parameter: the weight, scales or biases of a matrix, or a vector.

    `part` is what it belongs to, such as "layer 3". `shape` is that of the parameter's array in this dtype, with all
    experts, however many tensors they are stored in; `runs` are its bytes, in order.
    """

    parameter: str
    part: str
    dtype: str
    shape: tuple[int, ...]
    digest: str
    runs: tuple[Run, ...]

    @property
    def nbytes(self) -> int:
        """Bytes in the files."""
        return sum(run.nbytes for run in self.runs)


@dataclass(frozen=True)
class Manifest:
    """A model's configuration, as JSON texts by field, and its arrays, in the model's order."""

    config: Mapping[str, str]
    entries: tuple[Entry, ...]

    @cached_property
    def digests(self) -> dict[str, str]:
        """The value of each field, and the digest of each parameter, by name."""
        arrays: dict[str, list[str]] = {}
        for entry in self.entries:
            arrays.setdefault(entry.parameter, []).append(entry.digest)
        return field_names(self.config) | {name: digest_of(digests) for name, digests in arrays.items()}

    @cached_property
    def hash(self) -> str:
        """A hash of all digests: the identity of the model's content."""
        return digest_of([f"{name} {digest}" for name, digest in sorted(self.digests.items())], size=16)

    def to_json(self) -> bytes:
        """Return the manifest as JSON. The names of files are listed once; runs have their numbers."""
        files = list(dict.fromkeys(run.file for entry in self.entries for run in entry.runs))
        numbers = {file: number for number, file in enumerate(files)}
        entries = [
            {
                "parameter": entry.parameter,
                "part": entry.part,
                "dtype": entry.dtype,
                "shape": entry.shape,
                "digest": entry.digest,
                "runs": [(numbers[run.file], run.offset, run.nbytes) for run in entry.runs],
            }
            for entry in self.entries
        ]
        document = {"config": self.config, "files": files, "entries": entries}
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes, source: str) -> Manifest:
        """Read a manifest of `to_json`. Raises CheckpointError, whose message names `source`."""
        document = json_file.parse(data, source, max_depth=5)
        try:
            files = [_text(file) for file in document["files"]]
            entries = tuple(_entry(entry, files) for entry in document["entries"])
            return cls({_text(name): _text(value) for name, value in document["config"].items()}, entries)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
            raise CheckpointError(f"{source} is not a manifest of a model: {exc!r}") from exc


def field_names(config: Mapping[str, str]) -> dict[str, str]:
    """Return the values of a configuration's fields, with names that tell them from parameters."""
    return {f"{name} of config.json": value for name, value in config.items()}


def digest_of(texts: Iterable[str], size: int = 8) -> str:
    """Return a digest of texts, of `size` bytes."""
    return hashlib.blake2b(json.dumps([*texts]).encode(), digest_size=size).hexdigest()


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the names whose values differ, or that are in only one of the mappings, in their order."""
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def _entry(values: Mapping[str, Any], files: Sequence[str]) -> Entry:
    return Entry(
        parameter=_text(values["parameter"]),
        part=_text(values["part"]),
        dtype=_text(values["dtype"]),
        shape=tuple(map(_size, values["shape"])),
        digest=_text(values["digest"]),
        runs=tuple(Run(files[_size(file)], _size(offset), _size(nbytes)) for file, offset, nbytes in values["runs"]),
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} where a text belongs")
    return value


def _size(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.80} where a size belongs")
    return value

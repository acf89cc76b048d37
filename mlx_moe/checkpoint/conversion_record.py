"""ConversionRecord: what a directory is being converted from, how, and how far it is.

While a directory has a record, it is no checkpoint: it lacks files. Imports no MLX.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from mlx_moe.checkpoint import durable_file, json_file
from mlx_moe.checkpoint.recipe import Recipe
from mlx_moe.config import QuantizationConfig
from mlx_moe.errors import CheckpointError

NAME = ".moe-cluster-conversion.json"


@dataclass(frozen=True, slots=True)
class TensorDigest:
    """A written tensor: its file, dtype, shape, and the blake2b digest of all its bytes."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class ConversionRecord:
    """A conversion of `source`, a model as the person typed it, whose files have the stamp `source_stamp`.

    `written` has the tensors of complete files by name.
    """

    source: str
    source_stamp: str
    recipe: Recipe
    keep_mtp: bool
    written: Mapping[str, TensorDigest] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Return a directory's record; None: it has none. Raises CheckpointError if it cannot be read."""
        path = directory / NAME
        if not path.exists():
            return None
        values = json_file.read(path)
        try:
            return cls(
                source=str(values["source"]),
                source_stamp=str(values["source_stamp"]),
                recipe=Recipe(*(_quantization(values["recipe"][part]) for part in ("experts", "others"))),
                keep_mtp=bool(values["keep_mtp"]),
                written={name: _digest(digest) for name, digest in values["written"].items()},
            )
        except (KeyError, TypeError, AttributeError) as exc:
            raise CheckpointError(f"{path} is damaged: remove {directory}, and convert again") from exc

    def write(self, directory: Path) -> None:
        """Write the record, so that the old or the new one is there whenever the machine stops."""
        durable_file.write(directory / NAME, json.dumps(dataclasses.asdict(self), indent=1).encode())

    def is_of(self, other: ConversionRecord) -> bool:
        """Whether both are the same conversion, however far."""
        return (self.source_stamp, self.recipe, self.keep_mtp) == (other.source_stamp, other.recipe, other.keep_mtp)

    def command(self, directory: Path) -> str:
        """Return the command that begins this conversion and goes on with it."""
        how = self.recipe.experts
        options = []
        if how is not None:
            options = ["--bits", str(how.bits), "--mode", how.mode, "--group-size", str(how.group_size)]
        options += [] if self.recipe.others == how else ["--recipe", "mixed"]
        options += [] if self.keep_mtp else ["--no-mtp"]
        return shlex.join(["moe-cluster", "convert", self.source, str(directory), *options])


def refuse_unfinished(directory: Path) -> None:
    """Raise CheckpointError if a directory is a conversion that has not finished."""
    if (record := ConversionRecord.read(directory)) is not None:
        n_files = len({tensor.file for tensor in record.written.values()})
        raise CheckpointError(
            f"{directory} is no model yet: its conversion has not finished ({n_files} files are complete); this goes "
            f"on: {record.command(directory)}"
        )


def _digest(values: object) -> TensorDigest:
    match values:
        case {"file": str(file), "dtype": str(dtype), "shape": list(shape), "digest": str(digest)}:
            return TensorDigest(file, dtype, tuple(shape), digest)
    raise TypeError(f"a digest is {str(values)[:80]}")


def _quantization(values: Mapping[str, Any] | None) -> QuantizationConfig | None:
    match values:
        case None:
            return None
        case {"group_size": int(group_size), "bits": int(bits), "mode": str(mode)}:
            return QuantizationConfig(group_size, bits, mode)
    raise TypeError(f"a quantization is {str(values)[:80]}")

"""Partial conversion: the rows of a conversion that one machine keeps, in a share of the files that it would have.

Names, headers and sizes of all files follow from the source's headers. So they are there first, and any rows can be
added later. When all are there, the files equal those of `Conversion` to the byte. Imports no MLX.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_moe import families
from mlx_moe.checkpoint import json_file, outline
from mlx_moe.checkpoint.checkpoint import Checkpoint, Piece
from mlx_moe.checkpoint.parameter import Parameter
from mlx_moe.checkpoint.recipe import Recipe
from mlx_moe.checkpoint.share import Share
from mlx_moe.checkpoint.stored_parameter import CUT_NUMBERS, Origin, find
from mlx_moe.checkpoint.weight_files import INDEX_NAME
from mlx_moe.conversion import small_files
from mlx_moe.conversion.converted_config import converted_config, converted_index, to_json
from mlx_moe.conversion.file_header import file_header
from mlx_moe.conversion.plan import PlannedParameter, all_files, by_matrix, floats_of, planned_parameter

CONFIG_NAME = "config.json"

Places = tuple[tuple[str, range], ...]
"""Ranges of bytes of files, in the order of the rows that they have."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a parameter that are converted at once: where they are read, and where each tensor's bytes go."""

    planned: PlannedParameter
    origin: Origin
    places: tuple[Places, ...]

    @property
    def nbytes(self) -> int:
        """Bytes to write."""
        return sum(len(span) for places in self.places for _, span in places)


def is_begun(directory: Path) -> bool:
    """Whether a directory has all of a conversion but, perhaps, weights."""
    return (directory / CONFIG_NAME).exists()


def begin(directory: Path, source: Checkpoint, recipe: Recipe) -> None:
    """Write everything of a conversion but weights, config.json last, unless it is there.

    Raises:
        CheckpointError: a parameter is missing or its shape is wrong, or the disk refuses.
        UnsupportedModelError: a parameter is stored in a form that is not read.
    """
    if is_begun(directory):
        return
    planned = all_files(source, families.config_of(source), recipe)
    for file in planned.files:
        header = file_header(file.tensors)
        outline.store_header(directory, file.name, header, len(header) + file.nbytes)
    for path in small_files.of(source.directory):
        if outline.is_small(path.name):
            outline.store_small(directory, path.name, json_file.read_bytes(path))
    outline.store_small(directory, INDEX_NAME, to_json(converted_index(planned)))
    outline.store_small(directory, CONFIG_NAME, to_json(converted_config(source.config, planned)))


def lacking(
    source: Checkpoint, target: Checkpoint, share: Share, recipe: Recipe, parameters: Sequence[Parameter]
) -> list[Rows]:
    """Return which rows of parameters a share of the conversion `target` lacks. Raises as `begin`."""
    floats = floats_of(source, families.config_of(source))
    planned = (planned_parameter(source, parameter, recipe, floats) for parameter in parameters)
    return [
        rows
        for one in planned
        for rows in _rows(target, one)
        if any(share.missing(file, span) for places in rows.places for file, span in places)
    ]


def _rows(target: Checkpoint, planned: PlannedParameter) -> Iterator[Rows]:
    """Yield the rows of a parameter, a few at a time; what is turned or reordered by whole matrices."""
    (stored,) = find(target, [planned.parameter])
    cuts = _cuts if planned.keeps_rows else by_matrix
    origins, targets = (cuts(planned.parameter, origin) for origin in (planned.stored.origin, stored.origin))
    for origin, wanted in zip(origins, targets, strict=True):
        yield Rows(planned, origin, tuple(_places(target, array.pieces) for array in wanted.arrays))


def _cuts(parameter: Parameter, origin: Origin) -> Iterator[Origin]:
    """Yield runs of rows, none of them of two experts, since another part may lack only one of these."""
    layout = origin.layout
    matrices = layout.cut(layout.shape[-2]) if parameter.routed else [layout]
    for matrix in matrices:
        for cut in matrix.cut(max(1, CUT_NUMBERS // layout.shape[-1])):
            yield replace(origin, layout=cut)


def _places(target: Checkpoint, pieces: Sequence[Piece]) -> Places:
    return tuple((path.name, span) for path, spans in target.ranges(pieces) for span in spans)

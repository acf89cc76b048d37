"""Conversion: writes a planned conversion into a directory, file by file; begun again, it goes on where it was.

A file appears under its name when it is complete and synced; the record of what is complete follows. config.json comes
last, and then the record goes. So a directory is either an unfinished conversion, which `Checkpoint.open` refuses, or a
whole checkpoint.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_moe.checkpoint import conversion_record, durable_file, json_file
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.conversion_record import ConversionRecord
from mlx_moe.checkpoint.weight_files import INDEX_NAME
from mlx_moe.conversion import small_files, tensor_writer
from mlx_moe.conversion.converted_config import converted_config, converted_index, to_json
from mlx_moe.conversion.plan import ConversionPlan, PlannedFile, PlannedTensor
from mlx_moe.conversion.quantizing import Bytes, tensor_bytes
from mlx_moe.errors import InvalidRequestError
from mlx_moe.units import bytes_text

log = logging.getLogger(__name__)

DIGESTS_NAME = "digests.json"

SCRATCH_NAME = ".partial"
"""The directory in which files are written; a killed process leaves it."""

ROOM_BYTES = 64 << 20
"""Left free on the disk, beside what is written: headers, and what others write meanwhile."""

Progress = Callable[[int, int], None]
"""Called with the bytes written by this run so far, and all that it must write."""


class Conversion:
    """A conversion of a checkpoint into `directory`. `source` is the model as the person typed it."""

    def __init__(
        self, checkpoint: Checkpoint, plan: ConversionPlan, directory: Path, source: str, *, keep_mtp: bool = True
    ) -> None:
        self._checkpoint = checkpoint
        self._plan = plan
        self._directory = directory
        self._record = ConversionRecord(source, checkpoint.stamp(), plan.recipe, keep_mtp)
        self._is_finished = False
        self._look_at_directory()

    @property
    def command(self) -> str:
        """The command that goes on with this conversion."""
        return self._record.command(self._directory)

    @property
    def is_finished(self) -> bool:
        """Whether the directory has the whole conversion."""
        return self._is_finished

    @property
    def remaining(self) -> list[PlannedFile]:
        """The files that must still be written."""
        return [] if self._is_finished else [file for file in self._plan.files if not self._is_written(file)]

    @property
    def remaining_bytes(self) -> int:
        """The bytes of these files' tensors."""
        return sum(file.nbytes for file in self.remaining)

    def run(self, progress: Progress | None = None) -> None:
        """Write what remains.

        Raises:
            InvalidRequestError: the disk has no room, or another process is converting into the directory.
            CheckpointError: the source cannot be read, or a file cannot be written.
        """
        if self._is_finished:
            return
        self._require_room()
        self._directory.mkdir(parents=True, exist_ok=True)
        with _alone(self._directory), _without_cache():
            durable_file.remove_partials(self._directory)
            self._record.write(self._directory)
            with _scratch(self._directory) as scratch:
                self._write_weights(scratch, progress or (lambda _done, _total: None))
            small_files.copy(self._checkpoint.directory, self._directory)
            self._write_json(DIGESTS_NAME, self._digests())
            self._write_json(INDEX_NAME, converted_index(self._plan))
            self._write_json("config.json", converted_config(self._checkpoint.config, self._plan))
            (self._directory / conversion_record.NAME).unlink()
            self._is_finished = True

    def _look_at_directory(self) -> None:
        """Take up an unfinished conversion. Raises InvalidRequestError if the directory is anything else."""
        here, source = self._directory, self._checkpoint.directory
        if here.resolve() == source.resolve() or source.resolve() in here.resolve().parents:
            raise InvalidRequestError(f"{here} is in the model's own directory, {source}: give another one")
        if here.exists() and not here.is_dir():
            raise InvalidRequestError(f"{here} is a file: give a directory that does not exist yet")
        if (earlier := ConversionRecord.read(here)) is not None:
            self._take_up(earlier)
        elif (here / DIGESTS_NAME).exists() and self._digests_head() == self._head():
            self._is_finished = True
        elif here.exists() and any(here.iterdir()):
            raise InvalidRequestError(
                f"{here} exists and is no conversion of this model in this form: give another directory"
            )

    def _take_up(self, earlier: ConversionRecord) -> None:
        if not earlier.is_of(self._record):
            is_same = earlier.source_stamp == self._record.source_stamp
            what = "in another form" if is_same else f"of other files ({earlier.source} then)"
            raise InvalidRequestError(
                f"{self._directory} has an unfinished conversion {what}: remove it, give another directory, or go on "
                f"with {earlier.command(self._directory)}"
            )
        self._record = replace(self._record, written=earlier.written)

    def _is_written(self, file: PlannedFile) -> bool:
        path = self._directory / file.name
        is_recorded = all(
            (t := self._record.written.get(tensor.name)) is not None and t.file == file.name for tensor in file.tensors
        )
        return is_recorded and path.exists() and path.stat().st_size > file.nbytes

    def _require_room(self) -> None:
        place = next(path for path in (self._directory, *self._directory.absolute().parents) if path.exists())
        free, needed = shutil.disk_usage(place).free, self.remaining_bytes + ROOM_BYTES
        if free < needed:
            raise InvalidRequestError(
                f"the conversion needs {bytes_text(needed)} more, the disk of {place} has {bytes_text(free)} free: "
                f"free {bytes_text(needed - free)}, or give a directory on another disk"
            )

    def _write_weights(self, scratch: Path, progress: Progress) -> None:
        total, done = self.remaining_bytes, 0
        for file in self.remaining:
            tensors: dict[PlannedTensor, Bytes] = {}
            for planned in file.parameters:

                def report(share: float, start: int = done, nbytes: int = planned.nbytes) -> None:
                    progress(start + int(share * nbytes), total)

                arrays = tensor_bytes(self._checkpoint, planned, report)
                tensors |= dict(zip(planned.tensors, arrays, strict=True))
                done += planned.nbytes
            written = tensor_writer.write(self._directory / file.name, tensors, scratch)
            self._record = replace(self._record, written={**self._record.written, **written})
            self._record.write(self._directory)
            log.info("event=file_converted path=%s bytes=%d", file.name, file.nbytes)

    def _head(self) -> dict[str, Any]:
        """Return what tells this conversion from others."""
        values = asdict(self._record)
        return {key: values[key] for key in ("source_stamp", "recipe", "keep_mtp")}

    def _digests_head(self) -> Any:
        return json_file.read(self._directory / DIGESTS_NAME).get("conversion")

    def _digests(self) -> dict[str, Any]:
        written = self._record.written
        return {"conversion": self._head(), "tensors": {name: asdict(written[name]) for name in sorted(written)}}

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        durable_file.write(self._directory / name, to_json(values))


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Lock a directory. Raises InvalidRequestError if another process has it."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise InvalidRequestError(f"another process is converting into {directory}: wait for its end") from exc
        yield
    finally:
        os.close(fd)


@contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    """Yield an empty directory for unfinished files, and remove it."""
    scratch = directory / SCRATCH_NAME
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _without_cache() -> Iterator[None]:
    """Let MLX return the memory of freed arrays at once."""
    before = mx.set_cache_limit(0)
    try:
        yield
    finally:
        mx.set_cache_limit(before)

"""Checkpoint: a model directory and its tensors by name; reads byte ranges into memory, wherever they come from.

A checkpoint is valid if every requested tensor is found exactly once, in a file whose header is valid. All headers are
read on opening; a damaged file is an error only if a requested tensor is in no other file. Only `read_into` reads data.
Knows nothing about the meaning of the tensors.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from mlx_moe.checkpoint import conversion_record, hub_cache, json_file, other_formats, tensor_file
from mlx_moe.checkpoint.disk import Disk
from mlx_moe.checkpoint.share import Share, has_parts
from mlx_moe.checkpoint.source import Sources, WeightSource
from mlx_moe.checkpoint.tensor_file import TensorFile, TensorInfo
from mlx_moe.checkpoint.weight_files import INDEX_NAME, WeightFiles
from mlx_moe.errors import CheckpointError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of a stored tensor; `start_byte` counts from the beginning of the tensor's data."""

    name: str
    start_byte: int
    nbytes: int


class Checkpoint:
    """An open model directory. Close it, or use it as a context manager, to close its files and sources.

    Weight files that are not in the directory, except for their headers, are read from `sources`, in their order.
    """

    def __init__(
        self,
        directory: Path,
        config: dict[str, Any],
        files: WeightFiles,
        headers: Sequence[TensorFile],
        damaged: CheckpointError | None,
        sources: Sequence[WeightSource],
    ) -> None:
        self.directory = directory
        self.config = config
        self._files = files
        self._damaged = damaged
        self._headers = {header.path: header for header in headers}
        self._tensors, self._twice = _by_name(headers)
        self._take_others()
        self._compare_with_index()
        self._source = Sources([Disk(self._headers), *self._parts(sources), *sources])

    @classmethod
    def open(cls, directory: str | Path, sources: Sequence[WeightSource] = ()) -> Checkpoint:
        """Open a directory with config.json and safetensors files or their headers, and read all headers.

        Raises:
            CheckpointError: there is no valid file of weights, the index names files outside the directory, or the
                directory is an unfinished conversion.
        """
        directory = Path(directory)
        conversion_record.refuse_unfinished(directory)
        config = json_file.read(directory / "config.json")
        files = WeightFiles.of(directory)
        if not files.own:
            what = files.missing_text() if files.missing else "there are no safetensors files"
            raise CheckpointError(
                f"{directory}: {other_formats.beside(directory) or f'{what}: {hub_cache.cure(directory)}'}"
            )
        headers, damaged = _read_headers(files.own)
        if not headers and damaged:
            raise damaged
        return cls(directory, config, files, headers, damaged, sources)

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self._tensors)

    @property
    def is_whole(self) -> bool:
        """Whether the data of all weight files are in the directory, not only their headers."""
        return all(header.is_whole for header in self._headers.values())

    @property
    def source(self) -> Sources:
        """Where it reads from, in order of preference."""
        return self._source

    def __contains__(self, name: str) -> bool:
        """Whether a tensor with this name is stored."""
        return name in self._tensors

    def info(self, name: str) -> TensorInfo:
        """Return a tensor's dtype, shape and location. Raises CheckpointError if it is missing or stored twice."""
        if name in self._twice:
            one, other = self._tensors[name].path.name, self._twice[name].path.name
            raise CheckpointError(
                f"{self.directory}: tensor {name} is both in {one} and in {other}: keep the files of one copy of the "
                f"model here, and move the others away"
            )
        if name not in self._tensors:
            raise self.absence(name)
        return self._tensors[name]

    def absence(self, *names: str) -> CheckpointError:
        """Return the error that says why a tensor is missing, and the cure. `names` are its possible names."""
        if self._damaged:
            return self._damaged
        what = f"{self.directory}: no tensor {' or '.join(names)}"
        if self._files.missing:
            return CheckpointError(f"{what}; {self._files.missing_text()}: {hub_cache.cure(self.directory)}")
        named = next((name for name in names if name in self._files.weight_map), None)
        if named is not None:
            file = self._files.weight_map[named]
            return CheckpointError(
                f"{what}; {INDEX_NAME} puts it into {file}, which does not have it: {hub_cache.cure(self.directory)}"
            )
        n_files = len(self._headers)
        where = f"in {n_files} files" if n_files > 1 else f"in {next(iter(self._headers)).name}"
        return CheckpointError(
            f"{what} {where}: config.json describes another model than these weights, or a file of them is missing; "
            f"{hub_cache.cure(self.directory)}"
        )

    def read_into(self, pieces: Sequence[Piece], buffer: bytearray | memoryview) -> None:
        """Fill a buffer with pieces, in order. Several threads may call this at the same time.

        Raises:
            CheckpointError: a file changed since its header was checked, or no source can deliver the bytes.
            ValueError: the buffer does not have the size of the pieces.
        """
        memory = memoryview(buffer).cast("B")
        if sum(piece.nbytes for piece in pieces) != memory.nbytes:
            raise ValueError(f"pieces of {sum(p.nbytes for p in pieces)} bytes for a buffer of {memory.nbytes}")
        done = 0
        for path, ranges in self.ranges(pieces):
            nbytes = sum(map(len, ranges))
            self._source.read_into(path.name, ranges, memory[done : done + nbytes])
            done += nbytes

    def stamp(self) -> str:
        """Return a hash of config.json and of each file's `identity`, which changes when one of them is written.

        It is valid only on this machine: elsewhere the same files have other inodes.
        """
        seen = sorted((path.name, header.identity) for path, header in self._headers.items())
        return hashlib.sha256(json.dumps([self.config, seen], sort_keys=True).encode()).hexdigest()

    def close(self) -> None:
        """Close all files and sources."""
        self._source.close()

    def __enter__(self) -> Checkpoint:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _take_others(self) -> None:
        """Add files beside the model's own that have further tensors. Skip damaged ones and other copies of tensors."""
        headers = []
        for header in _read_headers(self._files.others)[0]:
            if header.tensors.keys() & self._tensors.keys():
                log.debug("event=file_skipped path=%s reason=another_copy", header.path)
            else:
                headers.append(header)
        tensors, twice = _by_name(headers)
        self._headers |= {header.path: header for header in headers}
        self._twice |= twice
        self._tensors |= tensors

    def _parts(self, sources: Sequence[WeightSource]) -> list[WeightSource]:
        """Return a source for the weight files that are here in part, unless the caller has given one."""
        if any(isinstance(source, Share) for source in sources) or not has_parts(self.directory):
            return []
        return [Share(self.directory, self._headers.values())]

    def _compare_with_index(self) -> None:
        weight_map = self._files.weight_map
        if weight_map and (differing := weight_map.keys() ^ self._tensors.keys()):
            log.debug(
                "event=index_differs directory=%s tensors=%d one=%s", self.directory, len(differing), min(differing)
            )

    def ranges(self, pieces: Iterable[Piece]) -> list[tuple[Path, list[range]]]:
        """Return the ranges of bytes that pieces are in, in order, by runs of one file; adjacent ranges are joined."""
        runs: list[tuple[Path, list[range]]] = []
        for piece in pieces:
            info = self.info(piece.name)
            if piece.start_byte < 0 or piece.start_byte + piece.nbytes > info.nbytes:
                raise ValueError(f"{piece} is outside the {info.nbytes} bytes of its tensor")
            start, stop = info.offset + piece.start_byte, info.offset + piece.start_byte + piece.nbytes
            if not runs or runs[-1][0] is not info.path:
                runs.append((info.path, []))
            ranges = runs[-1][1]
            if ranges and ranges[-1].stop == start:
                ranges[-1] = range(ranges[-1].start, stop)
            else:
                ranges.append(range(start, stop))
        return runs

    def by_file(self, pieces: Iterable[Piece]) -> dict[str, list[range]]:
        """Return the ranges of bytes that pieces are in, by the names of their files."""
        found: dict[str, list[range]] = {}
        for path, ranges in self.ranges(pieces):
            found.setdefault(path.name, []).extend(ranges)
        return found

    @property
    def all_pieces(self) -> Iterator[Piece]:
        """All tensors."""
        return (Piece(name, 0, self.info(name).nbytes) for name in self._tensors)


def _read_headers(paths: Iterable[Path]) -> tuple[list[TensorFile], CheckpointError | None]:
    """Return the headers of valid files, one for each file of several names, and the error of the first damaged one."""
    headers: dict[tuple[int, ...], TensorFile] = {}
    damaged: CheckpointError | None = None
    for path in paths:
        try:
            header = tensor_file.read(path)
        except CheckpointError as error:
            log.debug("event=file_skipped error=%s", error)
            damaged = damaged or error
        else:
            headers[header.identity] = header
    return [*headers.values()], damaged


def _by_name(headers: Iterable[TensorFile]) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """Return the tensors of files by name, and for each name that occurs twice its second tensor."""
    tensors: dict[str, TensorInfo] = {}
    twice: dict[str, TensorInfo] = {}
    for header in headers:
        for name, info in header.tensors.items():
            if tensors.setdefault(name, info) is not info:
                twice.setdefault(name, info)
    return tensors, twice

"""Checkpoint: a model directory, its tensors by name, and byte ranges read into arrays.

Headers are read and checked when the first tensor of their file is asked for; data is read only by `read_into`.
Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from mlx_moe import json_file, tensor_file
from mlx_moe.errors import CheckpointError
from mlx_moe.regular_file import identity, open_regular
from mlx_moe.tensor_file import TensorFile, TensorInfo

if TYPE_CHECKING:
    import mlx.core as mx

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.safetensors")
MAX_READ_BYTES = 1 << 30
"""Bytes of one read call: macOS refuses 2 GiB and more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of bytes of a stored tensor, counted from the beginning of its data."""

    name: str
    start_byte: int
    nbytes: int


class Checkpoint:
    """An open model directory. Close it, or use it as a context manager, to give its files back."""

    def __init__(self, directory: Path, config: dict[str, Any], file_of: dict[str, Path], indexed: bool) -> None:
        self.directory = directory
        self.config = config
        self._file_of = file_of
        self._indexed = indexed
        self._files: dict[Path, TensorFile] = {}
        self._open_files: dict[Path, BinaryIO] = {}
        self._opening = threading.Lock()

    @classmethod
    def open(cls, directory: str | Path) -> Checkpoint:
        """Open a directory with config.json and safetensors files, with an index or a single one.

        Raises:
            CheckpointError: files missing, or an index that names files outside the directory.
        """
        directory = Path(directory)
        config = json_file.read(directory / "config.json")
        index = directory / INDEX_NAME
        if index.exists():
            return cls(directory, config, _read_index(directory, index), indexed=True)
        single = _inside(directory, SINGLE_NAME)
        if not single.exists():
            raise CheckpointError(f"{directory} has neither {INDEX_NAME} nor {SINGLE_NAME}; is the download complete?")
        tensors = tensor_file.read(single)
        checkpoint = cls(directory, config, dict.fromkeys(tensors.tensors, single), indexed=False)
        checkpoint._files[single] = tensors
        return checkpoint

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self._file_of)

    def __contains__(self, name: str) -> bool:
        """Whether a tensor of this name is stored."""
        return name in self._file_of

    def info(self, name: str) -> TensorInfo:
        """Return a tensor's dtype, shape and place. Raises CheckpointError if its file is damaged."""
        return self._file(self._file_of[name]).tensors[name]

    def read_into(self, pieces: Sequence[Piece], array: mx.array) -> None:
        """Fill an evaluated, contiguous array's memory with pieces, one after the other. Threads may do so at once.

        Raises:
            CheckpointError: a file changed since its header was checked, or cannot be read.
        """
        memory = memoryview(array).cast("B")  # type: ignore[arg-type]  # MLX's stubs lack the buffer protocol
        if sum(piece.nbytes for piece in pieces) != memory.nbytes:
            raise ValueError(f"pieces of {sum(p.nbytes for p in pieces)} bytes for an array of {memory.nbytes}")
        done = 0
        for path, offset, nbytes in self._runs(pieces):
            self._read(path, offset, memory[done : done + nbytes])
            done += nbytes

    def content_hash(self) -> str:
        """Return a sha256 over config.json, and every file's name, size and header.

        It tells revisions, quantizations and layouts apart. It does not see the weights' bytes themselves.
        """
        digest = hashlib.sha256((self.directory / "config.json").read_bytes())
        for path in sorted(set(self._file_of.values())):
            file = self._file(path)
            digest.update(f"\0{path.name}\0{file.identity[1]}\0".encode())
            digest.update(file.header)
        return digest.hexdigest()

    def close(self) -> None:
        """Close all files."""
        for file in self._open_files.values():
            file.close()
        self._open_files.clear()

    def __enter__(self) -> Checkpoint:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _file(self, path: Path) -> TensorFile:
        if path not in self._files:
            file = tensor_file.read(path)
            wanted = {name for name, at in self._file_of.items() if at == path}
            if self._indexed and wanted != file.tensors.keys():
                name = min(wanted ^ file.tensors.keys())
                where = f"missing, but {INDEX_NAME} puts it there" if name in wanted else f"not in {INDEX_NAME}"
                raise CheckpointError(f"{path}: tensor {name} is {where}; the files are of different revisions")
            self._files[path] = file
        return self._files[path]

    def _runs(self, pieces: Sequence[Piece]) -> list[tuple[Path, int, int]]:
        """Return (file, offset, bytes) of the pieces, neighbours joined."""
        runs: list[tuple[Path, int, int]] = []
        for piece in pieces:
            info = self.info(piece.name)
            if piece.start_byte < 0 or piece.start_byte + piece.nbytes > info.nbytes:
                raise ValueError(f"{piece} is outside the {info.nbytes} bytes of its tensor")
            offset = info.offset + piece.start_byte
            if runs and runs[-1][0] == info.path and runs[-1][1] + runs[-1][2] == offset:
                path, start, nbytes = runs[-1]
                runs[-1] = (path, start, nbytes + piece.nbytes)
            else:
                runs.append((info.path, offset, piece.nbytes))
        return runs

    def _read(self, path: Path, offset: int, memory: memoryview) -> None:
        fd = self._open(path)
        done = 0
        while done < memory.nbytes:
            try:
                n = os.preadv(fd, [memory[done : done + MAX_READ_BYTES]], offset + done)
            except OSError as exc:
                raise CheckpointError(f"{path} cannot be read at byte {offset + done}: {exc.strerror}") from exc
            if n == 0:
                raise CheckpointError(f"{path} ends at byte {offset + done}: it was truncated while loading")
            done += n

    def _open(self, path: Path) -> int:
        with self._opening:
            if path not in self._open_files:
                file = open_regular(path)
                if identity(file) != self._files[path].identity:
                    file.close()
                    raise CheckpointError(f"{path} changed while it was being loaded; load it again")
                self._open_files[path] = file
            return self._open_files[path].fileno()


def _read_index(directory: Path, index: Path) -> dict[str, Path]:
    weight_map = json_file.read(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map is not an object of tensors and files")
    paths: dict[object, Path] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise CheckpointError(f"{index}: the file of tensor {tensor[:200]} is {str(name)[:80]}, wanted a name")
        if name not in paths:
            paths[name] = _inside(directory, name)
    missing = [path.name for path in paths.values() if not path.exists()]
    if missing:
        raise CheckpointError(
            f"{directory}: {len(missing)} of {len(paths)} files are missing ({', '.join(sorted(missing)[:3])}"
            f"{', ...' if len(missing) > 3 else ''}); the download is incomplete"
        )
    return {tensor: paths[name] for tensor, name in weight_map.items()}


def _inside(directory: Path, name: str) -> Path:
    """Return the path of a file that may be read: a plain name that does not lead out of the directory.

    The Hugging Face cache keeps its files as links into the `blobs` folder of the same model; these may lead there.
    """
    if not FILE_NAME.fullmatch(name):
        raise CheckpointError(f"{directory}: {name[:200]!r} is not the name of a safetensors file in the directory")
    path = directory / name
    root = directory.resolve()
    allowed = [root]
    if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
        allowed.append(root.parent.parent / "blobs")
    target = path.resolve()
    if target.parent not in allowed:
        raise CheckpointError(f"{path} is a link out of the model's directory, to {target}; it is not followed")
    return path

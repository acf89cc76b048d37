"""Outline message: an outline as a node sends it to another one, with a record of the content.

It is a directory that `Checkpoint.open` reads, with a record of the content that the sender has read of its whole copy.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.wire import node_pb2 as pb
from mlx_moe.checkpoint import json_file, origin, outline, tensor_file
from mlx_moe.checkpoint.regular_file import open_regular
from mlx_moe.checkpoint.weight_files import WeightFiles
from mlx_moe.errors import CheckpointError

RECORD = "content.json"

PART_BYTES = 1 << 20
MAX_BYTES = 1 << 30
"""Most bytes of an outline. The headers of DeepSeek-V3's original files have 11 MB together, its tokenizer 8 MB."""

MAX_FILES = 4096

ARRIVING = ".arriving-"
"""Prefix of the directories of outlines that have not arrived completely."""


@dataclass(frozen=True, slots=True)
class Record:
    """The content of the copy that an outline was taken from, see `mlx_moe.content`; `model` is its name."""

    model: str
    content_hash: str
    digests: Mapping[str, str]

    @classmethod
    def of(cls, directory: Path) -> Record | None:
        """Return the record of a directory; None if it has none. Raises CheckpointError if it is damaged."""
        if not (directory / RECORD).exists():
            return None
        value = json_file.read(directory / RECORD)
        match value:
            case {"model": str(model), "content_hash": str(content_hash), "digests": dict(digests)}:
                return cls(model, content_hash, digests)
        raise CheckpointError(f"{directory / RECORD} is damaged: delete {directory}, and load the model again")

    def to_json(self) -> bytes:
        """Return what `of` reads."""
        value = {"model": self.model, "content_hash": self.content_hash, "digests": dict(self.digests)}
        return json.dumps(value).encode()


async def sent(directory: Path, content_hash: str, digests: Mapping[str, str]) -> AsyncIterator[pb.OutlinePart]:
    """Yield the outline of a model's directory, with a record of its content. Raises CheckpointError."""
    parts = _outline(directory, Record(directory.name, content_hash, digests))
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        yield part


def _outline(directory: Path, record: Record) -> Iterator[pb.OutlinePart]:
    yield pb.OutlinePart(name=RECORD, data=record.to_json())
    files = WeightFiles.of(directory)
    for path in sorted(directory.iterdir()):
        if (outline.is_small(path.name) or path.name == origin.NAME) and path.is_file():
            yield from _parts(path.name, path, path.stat().st_size)
    for path in (*files.own, *files.others):
        header = path if path.exists() else tensor_file.header_path(path)
        yield from _parts(tensor_file.header_path(path).name, header, _header_bytes(header))


async def receive(stream: AsyncIterator[pb.OutlinePart], directory: Path, content_hash: str) -> None:
    """Write a received outline of a content to a directory, once all of it has arrived.

    Raises:
        CheckpointError: a file's name or the size is not allowed, it is of another content, or the disk refuses.
    """
    arriving = directory.with_name(f"{ARRIVING}{uuid.uuid4().hex}")
    total, names = 0, set()
    try:
        arriving.mkdir(parents=True, mode=0o700)
        async for part in stream:
            total += len(part.data) + 1
            names.add(part.name)
            if not _belongs(part.name) or total > MAX_BYTES or len(names) > MAX_FILES:
                raise CheckpointError(f"file {part.name[:80]!r} after {total:,} bytes is not a part of an outline")
            await asyncio.to_thread(_append, arriving / part.name, part.data)
        record = Record.of(arriving)
        if record is None or record.content_hash != content_hash:
            raise CheckpointError(f"the outline that arrived is not that of content {content_hash}")
        await asyncio.to_thread(_move, arriving, directory)
    except OSError as exc:
        raise CheckpointError(f"{directory} cannot be written: {exc.strerror}") from exc
    finally:
        shutil.rmtree(arriving, ignore_errors=True)


def _belongs(name: str) -> bool:
    """Whether a file with this name may be in an outline: neither data of weights nor records of them."""
    is_header = name.endswith(tensor_file.HEADER_SUFFIX) and outline.is_weights(
        name.removesuffix(tensor_file.HEADER_SUFFIX)
    )
    return is_header or outline.is_small(name) or name in (RECORD, origin.NAME)


def _header_bytes(path: Path) -> int:
    with open_regular(path) as file:
        return tensor_file.header_bytes(path, file.read(tensor_file.LENGTH_BYTES), path.stat().st_size)


def _parts(name: str, path: Path, nbytes: int) -> Iterator[pb.OutlinePart]:
    with open_regular(path) as file:
        while nbytes > 0 and (data := file.read(min(nbytes, PART_BYTES))):
            nbytes -= len(data)
            yield pb.OutlinePart(name=name, data=data)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def _move(arriving: Path, directory: Path) -> None:
    """Move files into the directory, the record last; weight files that are whole there need no header."""
    directory.mkdir(parents=True, mode=0o700, exist_ok=True)
    for path in sorted(arriving.iterdir(), key=lambda p: p.name == RECORD):
        whole = directory / path.name.removesuffix(tensor_file.HEADER_SUFFIX)
        if not whole.exists() or path.name == RECORD:
            os.replace(path, directory / path.name)

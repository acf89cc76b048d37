"""Copies: finds this node's copy of a model by its content, since its path may differ from other nodes' paths."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.wire import node_pb2 as pb
from mlx_moe import families
from mlx_moe.checkpoint import json_file, library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.config import ModelConfig
from mlx_moe.content import config_hash, read_content, read_tensors
from mlx_moe.errors import CheckpointError, MoeClusterError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy whose content was read. `stamp` identifies its files at that time; `digests` are those of its manifest."""

    directory: Path
    stamp: str
    content_hash: str
    config_hash: str
    digests: Mapping[str, str]

    def to_message(self) -> pb.ModelCopy:
        """Return the copy as a message, without its digests."""
        return pb.ModelCopy(content_hash=self.content_hash, path=str(self.directory))


class Copies:
    """Finds copies and remembers their directories; the content of a path is read again each time."""

    def __init__(self) -> None:
        self._seen: dict[str, Copy] = {}

    def read(self, checkpoint: Checkpoint, config: ModelConfig) -> Copy:
        """Read the content of an open checkpoint. Raises CheckpointError."""
        manifest = read_content(checkpoint, config)
        directory, stamp = checkpoint.directory.absolute(), checkpoint.stamp()
        copy = Copy(directory, stamp, manifest.hash, config_hash(config), manifest.digests)
        self._seen[copy.content_hash] = copy
        return copy

    def find(self, wanted: pb.WantedModel) -> Copy | None:
        """Return the copy with the wanted content; if there is none, the first one with the model's name.

        Raises:
            CheckpointError: there is none with the content, and the first one with the name is damaged.
        """
        others: list[Copy | CheckpointError] = []
        for directory in _distinct(library.namesakes(wanted.model, wanted.home_path)):
            try:
                copy = self._read(directory)
            except CheckpointError as error:
                others.append(error)
                continue
            if copy.content_hash == wanted.content_hash:
                return copy
            others.append(copy)
        for directory in _distinct(library.in_folders()):
            with suppress(MoeClusterError):
                if _config_hash(directory) == wanted.config_hash:
                    copy = self._read(directory)
                    if copy.content_hash == wanted.content_hash:
                        return copy
        if others and isinstance(others[0], CheckpointError):
            raise others[0]
        return next((other for other in others if isinstance(other, Copy)), None)

    def known(self, content_hash: str) -> Copy:
        """Return the copy that was last found with a content. Raises CheckpointError if there was none."""
        if content_hash not in self._seen:
            raise CheckpointError(f"no copy with the content {content_hash} was found here: load the model again")
        return self._seen[content_hash]

    def digests(self, part: pb.ModelPart) -> list[tuple[str, str]]:
        """Return the digests of a copy that was found, or those of one parameter's tensors. Raises CheckpointError."""
        copy = self.known(part.content_hash)
        if not part.parameter:
            return [*copy.digests.items()]
        with Checkpoint.open(copy.directory) as checkpoint:
            return read_tensors(checkpoint, _config(checkpoint), part.parameter)

    def _read(self, directory: Path) -> Copy:
        with Checkpoint.open(directory) as checkpoint:
            return self.read(checkpoint, _config(checkpoint))


def to_digests(values: Iterable[tuple[str, str]]) -> pb.Digests:
    """Return digests with their names as a message, in the same order."""
    return pb.Digests(digests=[pb.Digest(name=name, value=value) for name, value in values])


def from_digests(message: pb.Digests) -> list[tuple[str, str]]:
    """Return the digests, with their names, in a message of `to_digests`."""
    return [(digest.name, digest.value) for digest in message.digests]


def home_path(directory: Path) -> str:
    """Return a directory's path below this user's home directory, "" if it is elsewhere."""
    for home in (Path.home(), Path.home().resolve()):
        if directory.is_relative_to(home):
            return str(directory.relative_to(home))
    return ""


def _config(checkpoint: Checkpoint) -> ModelConfig:
    return families.read_config(checkpoint.config, str(checkpoint.directory / "config.json"))


def _config_hash(directory: Path) -> str:
    path = directory / "config.json"
    return config_hash(families.read_config(json_file.read(path), str(path)))


def _distinct(directories: Iterator[Path]) -> Iterator[Path]:
    """Yield each directory once, even if several links lead to it."""
    seen = set()
    for directory in directories:
        if (real := directory.resolve()) not in seen:
            seen.add(real)
            yield directory

"""Copies: finds this node's copy of a model by its content, since its path may differ from other nodes' paths."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.daemon.outline_message import Record
from cluster.home import Home
from cluster.wire import node_pb2 as pb
from mlx_moe import families
from mlx_moe.checkpoint import hub_cache, json_file, library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.origin import Origin
from mlx_moe.checkpoint.source import WeightSource
from mlx_moe.config import ModelConfig
from mlx_moe.content import config_hash, read_content, read_tensors
from mlx_moe.errors import CheckpointError, MoeClusterError

log = logging.getLogger(__name__)

MOST_OPEN = 2
"""Models whose files stay open for other nodes: a process on macOS may open 256 files."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A copy whose content is known. `stamp` identifies its files at that time; `digests` are those of its manifest.

    An outline has the headers, and perhaps a part of the data. Its content hash was read by the node with the whole
    copy, or is the identity of the files in the hub's repository `repo_id`.
    """

    directory: Path
    stamp: str
    content_hash: str
    config_hash: str
    digests: Mapping[str, str]
    is_outline: bool = False
    repo_id: str = ""

    def to_message(self) -> pb.ModelCopy:
        """Return the copy as a message, without its digests."""
        return pb.ModelCopy(content_hash=self.content_hash, path=str(self.directory), is_outline=self.is_outline)


class Copies:
    """Finds copies and remembers their directories; the content of a path is read again each time."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._seen: dict[str, Copy] = {}
        self._open: dict[str, WeightSource] = {}
        self._opening = threading.Lock()

    def read(self, checkpoint: Checkpoint, config: ModelConfig) -> Copy:
        """Return the copy of an open checkpoint; the content of a whole one is read. Raises CheckpointError."""
        directory, stamp = checkpoint.directory.absolute(), checkpoint.stamp()
        record, origin = Record.of(directory), Origin.of(directory)
        if record is not None:
            content_hash, digests = record.content_hash, record.digests
        elif origin.identity:
            content_hash, digests = origin.identity, {}
        elif checkpoint.is_whole:
            manifest = read_content(checkpoint, config)
            content_hash, digests = manifest.hash, manifest.digests
        else:
            raise CheckpointError(f"{directory} has only a part of its weights, and no record of their content")
        is_outline = not checkpoint.is_whole
        copy = Copy(directory, stamp, content_hash, config_hash(config), digests, is_outline, origin.repo_id)
        self._seen[copy.content_hash] = copy
        return copy

    def find(self, wanted: pb.WantedModel, *, is_guest: bool = False) -> Copy | None:
        """Return the copy with the wanted content; if there is none, the first one with the model's name.

        Whole copies come first, then parts that were downloaded. Without a wanted content, it is the first one with the
        name. For another node (`is_guest`), directories where this node does not keep models count only if the wanted
        content is there: for all others the answer is the same as if there were none.

        Raises:
            CheckpointError: there is none with the content, and the first one with the name is damaged.
        """
        others: list[Copy | CheckpointError] = []
        for directory in _distinct(library.namesakes(wanted.model, wanted.home_path)):
            if is_guest and not self._keeps_models_in(directory):
                if (copy := self._same(directory, wanted)) is not None:
                    return copy
                continue
            try:
                copy = self._read(directory)
            except CheckpointError as error:
                others.append(error)
                continue
            if copy.content_hash == wanted.content_hash or not wanted.content_hash:
                return copy
            if hub_cache.origin(directory).identity == wanted.content_hash:
                copy = self._seen[wanted.content_hash] = replace(copy, content_hash=wanted.content_hash)
                return copy
            others.append(copy)
        for directory in _distinct(directory for _, directory in library.in_folders()):
            if (copy := self._same(directory, wanted)) is not None:
                return copy
        if wanted.content_hash and (kept := self.kept(wanted.content_hash)) is not None:
            return kept
        if others and isinstance(others[0], CheckpointError):
            raise others[0]
        return next((other for other in others if isinstance(other, Copy)), None)

    def kept(self, content_hash: str) -> Copy | None:
        """Return the copy, or the part of one, with a content that this node has downloaded; None if there is none."""
        for directory in self._home.models.glob("[!.]*/[!.]*"):
            if _identity(directory) == content_hash:
                return self._read(directory)
        return None

    def local(self, model: str) -> Copy:
        """Return the copy that this node calls `model`. Raises as `library.locate`, and CheckpointError."""
        return self._read(library.locate(model))

    def whole(self, content_hash: str) -> Copy | None:
        """Return the whole copy with a content, if it was found before."""
        copy = self._seen.get(content_hash)
        return None if copy is None or copy.is_outline else copy

    def known(self, content_hash: str) -> Copy:
        """Return the copy that was last found with a content. Raises CheckpointError if there was none."""
        if content_hash not in self._seen:
            raise CheckpointError(f"no copy with the content {content_hash} was found here: load the model again")
        return self._seen[content_hash]

    def source(self, content_hash: str) -> WeightSource:
        """Return the source that reads a copy that was found. Raises CheckpointError if its files have changed."""
        copy = self.known(content_hash)
        with self._opening:
            source = self._open.pop(copy.stamp, None)
            if source is None:
                checkpoint = Checkpoint.open(copy.directory)
                if checkpoint.stamp() != copy.stamp:
                    raise CheckpointError(
                        f"{copy.directory} has changed since its content was read: load the model again"
                    )
                source = checkpoint.source
            self._open[copy.stamp] = source
            while len(self._open) > MOST_OPEN:  # not closed here: a thread may be reading it
                del self._open[next(iter(self._open))]
        return source

    def close(self) -> None:
        """Close the files that `source` has opened."""
        for source in self._open.values():
            source.close()
        self._open.clear()

    def digests(self, part: pb.ModelPart) -> list[tuple[str, str]]:
        """Return the digests of a copy that was found, or those of one parameter's tensors. Raises CheckpointError."""
        copy = self.known(part.content_hash)
        if not part.parameter:
            return [*copy.digests.items()]
        with Checkpoint.open(copy.directory) as checkpoint:
            return read_tensors(checkpoint, families.config_of(checkpoint), part.parameter)

    def _keeps_models_in(self, directory: Path) -> bool:
        return library.is_in_places(directory) or directory.absolute().is_relative_to(self._home.models)

    def _same(self, directory: Path, wanted: pb.WantedModel) -> Copy | None:
        """Return the copy in a directory if it has the wanted content. Weights are read if the config is the same."""
        with suppress(MoeClusterError, OSError):
            if wanted.content_hash and _config_hash(directory) == wanted.config_hash:
                copy = self._read(directory)
                return copy if copy.content_hash == wanted.content_hash else None
        return None

    def _read(self, directory: Path) -> Copy:
        with Checkpoint.open(directory) as checkpoint:
            return self.read(checkpoint, families.config_of(checkpoint))


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


def _identity(directory: Path) -> str:
    """Return the content of what was downloaded to a directory, by its record; "" if that is missing or damaged."""
    try:
        record = Record.of(directory)
        return Origin.of(directory).identity if record is None else record.content_hash
    except CheckpointError as error:
        log.warning("event=record_damaged directory=%s error=%s", directory, error)
        return ""


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

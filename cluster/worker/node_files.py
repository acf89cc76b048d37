"""NodeFiles: what a worker reads its part from: a directory of its node, and other nodes or the hub for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from cluster.worker.role import Role
from mlx_moe.checkpoint import library, pull
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.share import Share
from mlx_moe.checkpoint.source import Sources, WeightSource
from mlx_moe.errors import CheckpointError

Progress = Callable[[str, int, int], None]
"""Called with the names of the sources ("": this disk), the bytes read so far, and the bytes to read."""


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """A model by its name or directory. Weight files of which only the headers are there are read from `sources`.

    With `keep`, what is read from them is kept in the directory. `stamp` identifies the directory's files at the time
    when their content was compared with other nodes' copies; "" if it was not.
    """

    model: str
    stamp: str = ""
    sources: Sequence[WeightSource] = ()
    keep: bool = False

    @property
    def source_name(self) -> str:
        """The names of the sources; "" if everything is on this node's disk."""
        return ", ".join(source.name for source in self.sources)

    def open_for(self, role: Role, draft: str, progress: Progress) -> Checkpoint:
        """Open the checkpoint; if `keep`, with the parameters of a role on this disk.

        Raises:
            CheckpointError: its files have changed since they were compared, the sources do not deliver, or the disk is
                full; what was fetched is kept.
        """
        checkpoint = self._open()
        if not self.keep:
            return checkpoint
        with checkpoint, closing(Share(checkpoint.directory)) as share:
            wanted = role.ranges(checkpoint, draft)
            count = pull.counted(partial(progress, self.source_name), pull.missing_bytes(share, wanted))
            pull.pull(share, Sources(self.sources), wanted, count)
        return Checkpoint.open(checkpoint.directory, self.sources)

    def _open(self) -> Checkpoint:
        checkpoint = Checkpoint.open(library.locate(self.model), self.sources)
        if self.stamp and checkpoint.stamp() != self.stamp:
            checkpoint.close()
            raise CheckpointError(
                f"{checkpoint.directory} has changed since it was compared with the other nodes' copies: try again"
            )
        return checkpoint

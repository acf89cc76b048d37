"""NodeFiles: what a worker reads its part from: a directory of its node, and other nodes or the hub for the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cluster.worker.role import Role
from mlx_moe.checkpoint import library, pull
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.share import Share
from mlx_moe.checkpoint.source import Sources, WeightSource
from mlx_moe.conversion import partial_conversion
from mlx_moe.conversion.filling import fill
from mlx_moe.errors import CheckpointError

Progress = Callable[[str, int, int], None]
"""Called with the names of the sources ("": this disk), the bytes read so far, and the bytes to read."""


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """A model by its name or directory. Weight files of which only the headers are there are read from `sources`.

    With `keep`, what is read from them is kept in the directory. With `conversion`, a directory, the part is quantized
    into that, and read from there. `stamp` identifies the directory's files at the time
    when their content was compared with other nodes' copies; "" if it was not.
    """

    model: str
    stamp: str = ""
    sources: Sequence[WeightSource] = ()
    keep: bool = False
    conversion: Path | None = None

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
        if self.conversion is not None:
            return self._converted(self.conversion, role, draft, progress)
        checkpoint = self._open()
        if not self.keep:
            return checkpoint
        with checkpoint, closing(Share(checkpoint.directory)) as share:
            wanted = role.ranges(checkpoint, draft)
            count = pull.counted(partial(progress, self.source_name), pull.missing_bytes(share, wanted))
            pull.pull(share, Sources(self.sources), wanted, count)
        return Checkpoint.open(checkpoint.directory, self.sources)

    def _converted(self, directory: Path, role: Role, draft: str, progress: Progress) -> Checkpoint:
        """Open a conversion, with the parameters of a role on this disk; the model is read only if some are missing."""
        if not role.is_kept_in(directory, draft):
            with self._open() as source:
                partial_conversion.begin(directory, source, role.placement.recipe)
                with Checkpoint.open(directory) as target, closing(Share(directory)) as share:
                    lacking = role.lacking(source, target, share, draft)
                    fill(share, source, lacking, partial(progress, self.source_name))
        return Checkpoint.open(directory)

    def _open(self) -> Checkpoint:
        checkpoint = Checkpoint.open(library.locate(self.model), self.sources)
        if self.stamp and checkpoint.stamp() != self.stamp:
            checkpoint.close()
            raise CheckpointError(
                f"{checkpoint.directory} has changed since it was compared with the other nodes' copies: try again"
            )
        return checkpoint

"""NodeFiles: what a worker reads its part from: a directory of its node, and other nodes for what is not in it."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.source import WeightSource
from mlx_moe.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """A model by its name or directory. Weight files of which only the headers are there are read from `sources`.

    `stamp` identifies the directory's files at the time when their content was compared with other nodes' copies; "" if
    it was not.
    """

    model: str
    stamp: str = ""
    sources: tuple[WeightSource, ...] = ()

    @property
    def source_name(self) -> str:
        """The names of the other nodes; "" if everything is on this node's disk."""
        return ", ".join(source.name for source in self.sources)

    def open(self) -> Checkpoint:
        """Open the checkpoint. Raises CheckpointError if its files have changed since they were compared."""
        checkpoint = Checkpoint.open(library.locate(self.model), self.sources)
        if self.stamp and checkpoint.stamp() != self.stamp:
            checkpoint.close()
            raise CheckpointError(
                f"{checkpoint.directory} has changed since it was compared with the other nodes' copies: try again"
            )
        return checkpoint

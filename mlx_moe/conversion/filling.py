"""Filling: converts rows that a share of a conversion lacks, and writes them into it."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.share import Share
from mlx_moe.conversion import quantizing
from mlx_moe.conversion.partial_conversion import Rows


def fill(share: Share, source: Checkpoint, lacking: Sequence[Rows], progress: loader.Progress | None = None) -> None:
    """Convert rows of a source and store them; what was stored before an error, or a kill, is kept.

    `progress` is called with the bytes read so far and the bytes to read.

    Raises:
        CheckpointError: another process writes this share, the disk has no room, or as `loader.load`.
    """
    share.begin()
    share.require_room(sum(rows.nbytes for rows in lacking))
    reads = [(rows.origin, quantizing.MX_FLOATS[rows.planned.float_dtype]) for rows in lacking]
    for rows, arrays in zip(lacking, loader.read(source, reads, progress), strict=True):
        for places, data in zip(rows.places, quantizing.converted_bytes(rows.planned, arrays), strict=True):
            memory, done = data.data, 0
            for file, span in places:
                share.write(file, span.start, memory[done : done + len(span)])
                done += len(span)
    share.sync()

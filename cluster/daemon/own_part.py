"""Own part: what this node lacks of its part of a model, or of the whole, and where and how it is kept on its disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from cluster.daemon.copies import Copy
from cluster.home import Home
from cluster.placement import Placement
from cluster.wire import node_pb2 as pb
from cluster.wire import worker_pb2
from cluster.worker.role import Role
from mlx_moe.checkpoint import durable_file, pull
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import AS_STORED
from mlx_moe.checkpoint.share import Share
from mlx_moe.checkpoint.source import Sources, WeightSource
from mlx_moe.conversion import partial_conversion
from mlx_moe.manifest import digest_of

PROGRESS_S = 0.2


def needs(request: pb.AdoptRequest, copy: Copy, node_id: str, home: Home) -> pb.AdoptReply:
    """Return how many bytes of the node's part are not on its disk, how many it would store, and how many are free."""
    role = Role.read(request.placement, node_id) if request.placement else None
    conversion = None if role is None else conversion_of(home, role.placement, copy, keep=request.keep)
    if role is None or conversion is None:
        wanted, stored = _wanted(request, copy.directory, node_id), None
    else:
        wanted, stored = _lacking(role, request.draft, copy.directory, conversion)
    with closing(Share(copy.directory)) as share:
        missing = pull.missing_bytes(share, wanted)
    free = durable_file.free_bytes(conversion or copy.directory)
    return pb.AdoptReply(missing_bytes=missing, stored_bytes=missing if stored is None else stored, free_bytes=free)


def conversion_of(home: Home, placement: Placement, copy: Copy, *, keep: bool) -> Path | None:
    """Return where this node keeps its part of a model quantized as it is placed; None: it does not keep it.

    It does if it is asked to `keep` it, if it has begun to, or if it keeps what it lacks of this copy anyway. The name
    says of which content and how: all nodes that quantize the same rows write the same bytes.
    """
    if placement.recipe == AS_STORED:
        return None
    name = digest_of([placement.content_hash, json.dumps(asdict(placement.recipe), sort_keys=True)], size=16)
    directory = home.folder_of(placement.model) / name
    is_kept = keep or directory.exists() or (copy.is_outline and copy.directory.is_relative_to(home.models))
    return directory if is_kept else None


async def fetch(
    request: pb.AdoptRequest, copy: Copy, node_id: str, sources: Sequence[WeightSource]
) -> AsyncIterator[worker_pb2.LoadProgress]:
    """Copy the node's part to its disk; yield the progress.

    Raises:
        CheckpointError: the sources do not deliver, or the disk is full; what was fetched is kept.
    """
    told = worker_pb2.LoadProgress(source=", ".join(source.name for source in sources))

    def progress(done_bytes: int, total_bytes: int) -> None:
        told.done_bytes, told.total_bytes = done_bytes, total_bytes

    def run() -> None:
        wanted = _wanted(request, copy.directory, node_id)
        with closing(Share(copy.directory)) as share:
            pull.pull(share, Sources(sources), wanted, pull.counted(progress, pull.missing_bytes(share, wanted)))

    running = asyncio.create_task(asyncio.to_thread(run))
    try:
        while not running.done():
            await asyncio.wait((running,), timeout=PROGRESS_S)
            yield told
        running.result()
    finally:
        for source in sources:  # what the thread of a cancelled call reads next fails
            source.close()
        await asyncio.wait((running,))


def _lacking(role: Role, draft: str, directory: Path, conversion: Path) -> tuple[dict[str, list[range]], int]:
    """Return the ranges of a model from which what its conversion lacks of a role's part is made, and its bytes."""
    if role.is_kept_in(conversion, draft):
        return {}, 0
    with Checkpoint.open(directory) as source:
        partial_conversion.begin(conversion, source, role.placement.recipe)
        with Checkpoint.open(conversion) as target, closing(Share(conversion)) as share:
            lacking = role.lacking(source, target, share, draft)
        return source.by_file(piece for rows in lacking for piece in rows.origin.pieces), sum(r.nbytes for r in lacking)


def _wanted(request: pb.AdoptRequest, directory: Path, node_id: str) -> dict[str, list[range]]:
    """Return the ranges of the node's part, or of the whole model, by file."""
    with Checkpoint.open(directory) as checkpoint:
        if not request.placement:
            return checkpoint.by_file(checkpoint.all_pieces)
        return Role.read(request.placement, node_id).ranges(checkpoint, request.draft)

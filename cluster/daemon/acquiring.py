"""Acquiring: gives nodes without a copy of a model its outline, so that they can load their part from elsewhere."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cluster.daemon import outline
from cluster.daemon.copies import Copies, Copy
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError, NodeLostError
from cluster.home import Home
from cluster.placement import Placement
from cluster.rpc_errors import translated
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc
from cluster.worker.role import Role
from mlx_moe import families
from mlx_moe.checkpoint import library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.errors import CheckpointError, InvalidRequestError

log = logging.getLogger(__name__)

OUTLINE_S = 300.0

_HASH = re.compile(r"[0-9a-f]{32}")

Stub = Callable[[str], node_pb2_grpc.NodeStub]


class Acquiring:
    """Takes outlines from other nodes. `stub` returns the gRPC stub of a node."""

    def __init__(self, state: NodeState, stub: Stub, copies: Copies, home: Home) -> None:
        self._state = state
        self._stub = stub
        self._copies = copies
        self._home = home
        self._taken_at: dict[str, float] = {}

    async def from_others(self, model: str) -> Copy | None:
        """Return the outline of the copy that another node calls `model`; None if no node has one."""
        for node_id in self._state.present:
            try:
                with translated(f"node {self._state.name(node_id)}"):
                    found = await self._stub(node_id).Inspect(pb.WantedModel(model=model), timeout=OUTLINE_S)
            except (NodeLostError, CheckpointError, InvalidRequestError) as error:
                log.info("event=no_copy node=%s error=%s", node_id, error)
                continue
            if found.content_hash and not found.is_outline:
                return await self.take(model, found.content_hash, [node_id], keep=False)
        return None

    async def give(self, request: pb.LoadRequest, placement: Placement, holders: Sequence[str]) -> None:
        """Give the outline of a model to all nodes of a placement without a copy, one after the other.

        Each one takes it from the one before, so that it leaves the node with the copy only once.

        Raises:
            ClusterError: a disk has too little room for what is kept.
        """
        sources = [*holders, self._state.own.node_id]
        for node_id in placement.node_ids:
            if node_id in holders:
                continue
            asked = pb.AdoptRequest(
                model=request.model,
                content_hash=placement.content_hash,
                holders=sources,
                placement=json.dumps(placement.to_json()),
                draft=request.draft,
                keep=request.keep,
            )
            with translated(f"node {self._state.name(node_id)}"):
                found = await self._stub(node_id).Adopt(asked, timeout=OUTLINE_S)
            if request.keep and found.missing_bytes > found.free_bytes:
                raise ClusterError(
                    f"node {self._state.name(node_id)} has {found.free_bytes / 1e9:.1f} GB free on its disk, and its "
                    f"part of {request.model} needs {found.missing_bytes / 1e9:.1f} GB; load without --keep"
                )
            sources.insert(0, node_id)

    async def adopt(self, request: pb.AdoptRequest) -> pb.AdoptReply:
        """Take the outline of a model, for this node's role in a placement; return what its part needs."""
        copy = await self.take(request.model, request.content_hash, list(request.holders), keep=request.keep)
        role = Role.read(request.placement, self._state.own.node_id)
        with Checkpoint.open(copy.directory) as checkpoint:
            config = families.read_config(checkpoint.config, str(copy.directory / "config.json"))
            stored = find(checkpoint, role.parameters(checkpoint, config, request.draft))
            ranges = checkpoint.ranges(piece for s in stored for array in s.arrays for piece in array.pieces)
            missing = sum(
                len(span) - sum(map(len, checkpoint.source.present(path.name, span)))
                for path, spans in ranges
                for span in spans
            )
        return pb.AdoptReply(missing_bytes=missing, free_bytes=shutil.disk_usage(copy.directory).free)

    async def take(self, model: str, content_hash: str, holders: Sequence[str], *, keep: bool) -> Copy:
        """Return the outline of a content, taken from the first of the holders that delivers it.

        Raises:
            ClusterError: none does; the error is that of the last one.
        """
        directory = self._directory(model, content_hash, keep=keep)
        self._taken_at[content_hash] = time.monotonic()
        error: ClusterError = ClusterError(f"no node has the outline of {model}")
        for node_id in holders:
            name = self._state.name(node_id)
            try:
                await self._state.meet(node_id)
                with translated(f"node {name}"):
                    call = self._stub(node_id).Outline(pb.OutlineRequest(content_hash=content_hash), timeout=OUTLINE_S)
                    await outline.receive(call, directory, content_hash)
                return self._copies.local(str(directory))
            except NodeLostError as exc:
                error = exc
        raise error

    def forget(self, taken_before: float = math.inf) -> None:
        """Delete the outlines that are not kept, except those that were taken later, for a load that comes next."""
        for directory in self._home.outlines.glob("*"):
            if self._taken_at.get(directory.name, 0.0) < taken_before:
                shutil.rmtree(directory, ignore_errors=True)

    def _directory(self, model: str, content_hash: str, *, keep: bool) -> Path:
        if not _HASH.fullmatch(content_hash):
            raise InvalidRequestError(f"{content_hash[:80]!r} is not the hash of a content")
        return self._home.models / folder_name(model) / content_hash if keep else self._home.outlines / content_hash


def folder_name(model: str) -> str:
    """Return the name of the folder for copies of a model: org--name, or the last part of a path."""
    match = library.REPO_ID.fullmatch(model)
    return match[1].replace("/", "--") if match else re.sub(r"[^A-Za-z0-9_-]+", "-", Path(model).name) or "model"

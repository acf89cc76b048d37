"""Acquiring: gives nodes without a copy of a model its outline, so that they can load their part from elsewhere."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from cluster.daemon import outline_message, own_part
from cluster.daemon.copies import Copies, Copy
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError, DownloadError, NodeLostError
from cluster.home import Home
from cluster.placement import Placement
from cluster.rpc_errors import translated
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc
from mlx_moe.checkpoint import hub_cache
from mlx_moe.checkpoint.origin import NAME as ORIGIN_NAME
from mlx_moe.checkpoint.origin import Origin
from mlx_moe.checkpoint.recipe import AS_STORED
from mlx_moe.checkpoint.source import SourceError
from mlx_moe.errors import CheckpointError, InvalidRequestError
from mlx_moe.units import bytes_text

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
        self._one_at_a_time = asyncio.Lock()

    async def from_others(self, model: str) -> Copy | None:
        """Return the outline of the copy that another node calls `model`; None if no node has one.

        Raises:
            CheckpointError: two nodes have different ones.
        """
        found: dict[str, str] = {}
        for node_id in self._state.present:
            try:
                with translated(f"node {self._state.name(node_id)}"):
                    copy = await self._stub(node_id).Inspect(pb.WantedModel(model=model), timeout=OUTLINE_S)
            except (NodeLostError, CheckpointError, InvalidRequestError) as error:
                log.info("event=no_copy node=%s error=%s", node_id, error)
                continue
            if copy.content_hash and not copy.is_outline:
                found.setdefault(copy.content_hash, node_id)
        if len(found) > 1:
            named = ", ".join(f"{content} on {self._state.name(node_id)}" for content, node_id in found.items())
            raise CheckpointError(f"the nodes have different models called {model} ({named}): keep one of them")
        for content_hash, node_id in found.items():
            return await self.take(model, content_hash, [node_id], keep=False)
        return None

    async def give(self, request: pb.LoadRequest, placement: Placement, holders: Sequence[str], own: Copy) -> None:
        """Give the outline of a model to all nodes of a placement without a copy, before it is loaded.

        `own` is this node's copy, or outline.

        Raises:
            CheckpointError: no node has the model, it is not from the hub, and not all of it is kept.
            ClusterError: a disk has too little room for what is kept.
            DownloadError: weights must be downloaded, and the request does not allow it yet.
        """
        keep = request.keep or not holders
        whole = () if keep and placement.recipe != AS_STORED else holders  # those that keep nothing
        asked = self.part(request, placement, holders, keep=keep)
        parts = await self.adopted(asked, [node_id for node_id in placement.node_ids if node_id not in whole])
        if keep:
            require_room(request.model, parts)
        if not holders and (total := sum(part.missing_bytes for part in parts.values())):
            if not own.repo_id:
                raise CheckpointError(
                    f"{request.model} is on no node, and of what the nodes keep {bytes_text(total)} are missing: copy "
                    f"its files to one of them, or ask for the --bits that `moe-cluster ls` shows"
                )
            if request.download:
                return
            rooms = "; ".join(_room(name, part.missing_bytes, part) for name, part in parts.items())
            raise DownloadError(f"{request.model} is on no node: {bytes_text(total)} would be downloaded ({rooms})")

    def part(
        self, request: pb.LoadRequest, placement: Placement, holders: Sequence[str], *, keep: bool
    ) -> pb.AdoptRequest:
        """Return what to ask a node to adopt for its part in a placement."""
        return pb.AdoptRequest(
            model=request.model,
            content_hash=placement.content_hash,
            holders=holders,
            placement=json.dumps(placement.to_json()),
            draft=request.draft,
            keep=keep,
        )

    async def adopted(self, asked: pb.AdoptRequest, node_ids: Sequence[str]) -> dict[str, pb.AdoptReply]:
        """Give an outline to nodes, one after the other; return what each one needs, by name.

        Each one takes it from the one before, so that it leaves the node with the copy only once.
        """
        parts: dict[str, pb.AdoptReply] = {}
        sources = [self._state.own.node_id, *asked.holders]
        for node_id in node_ids:
            asked_here = pb.AdoptRequest()
            asked_here.CopyFrom(asked)
            asked_here.holders[:] = sources
            name = self._state.name(node_id)
            with of_node(name), translated(f"node {name}"):
                parts[name] = await self._stub(node_id).Adopt(asked_here, timeout=OUTLINE_S)
            sources.insert(0, node_id)
        return parts

    async def adopt(self, request: pb.AdoptRequest) -> pb.AdoptReply:
        """Take the outline of a model, unless this node has a copy; return what its part of it needs."""
        is_holder = self._state.own.node_id in request.holders
        copy = self._copies.whole(request.content_hash) if is_holder else None
        if copy is None:
            copy = await self.take(request.model, request.content_hash, list(request.holders), keep=request.keep)
        elif request.keep:
            await self._keep_outline(request.model, copy)
        return await asyncio.to_thread(own_part.needs, request, copy, self._state.own.node_id, self._home)

    def kept(self, model: str) -> Copy | None:
        """Return the newest outline of what this node keeps under a name, as `ls` shows it; None if there is none.

        Raises:
            CheckpointError: it is damaged.
        """
        folder = self._home.folder_of(model)
        found = sorted(folder.glob(f"*/{outline_message.RECORD}"), key=lambda path: path.stat().st_mtime)
        if not found or folder.name.replace("--", "/", 1) != model:  # the last part of a path names other models too
            return None
        return self._copies.local(str(found[-1].parent))

    async def _keep_outline(self, model: str, copy: Copy) -> None:
        """Keep the outline of a whole copy, so that what is kept can be loaded when the copy is gone."""
        directory = self._directory(model, copy.content_hash, keep=True)
        if not (directory / outline_message.RECORD).exists():
            parts = outline_message.sent(copy.directory, copy.content_hash, copy.digests)
            await outline_message.receive(parts, directory, copy.content_hash)

    async def from_hub(self, repo_id: str, revision: str) -> Copy:
        """Return the outline of a model's files on the hub.

        Raises:
            CheckpointError: the hub does not answer and no earlier outline is here, or the files are damaged.
        """
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._from_hub, repo_id, revision)

    async def take(self, model: str, content_hash: str, holders: Sequence[str], *, keep: bool) -> Copy:
        """Return what this node keeps of a content, or its outline, from the first of the holders that delivers it.

        Raises:
            ClusterError: none does; the error is that of the last one.
        """
        async with self._one_at_a_time:
            kept = await asyncio.to_thread(self._copies.kept, content_hash)
            return kept or await self._taken(model, content_hash, holders, keep=keep)

    async def _taken(self, model: str, content_hash: str, holders: Sequence[str], *, keep: bool) -> Copy:
        directory = self._directory(model, content_hash, keep=keep)
        self._taken_at[content_hash] = time.monotonic()
        error: ClusterError = ClusterError(f"no node has the outline of {model}")
        unknown = {node_id for node_id in holders if not self._state.reached_at(node_id)}
        await asyncio.gather(*map(self._state.meet, unknown), return_exceptions=True)  # at once: no list takes longer
        for node_id in holders:
            name = self._state.name(node_id)
            try:
                with translated(f"node {name}"):
                    call = self._stub(node_id).Outline(pb.OutlineRequest(content_hash=content_hash), timeout=OUTLINE_S)
                    await outline_message.receive(call, directory, content_hash)
                return await asyncio.to_thread(self._copies.local, str(directory))
            except NodeLostError as exc:
                error = exc
        raise error

    def _from_hub(self, repo_id: str, revision: str) -> Copy:
        from mlx_moe.checkpoint import hub  # its import takes half a second
        from mlx_moe.checkpoint.hub_source import HubSource

        folder = self._home.folder_of(repo_id)
        try:
            origin = hub.resolve(repo_id, revision)
        except SourceError:
            earlier = sorted(folder.glob(f"*/{ORIGIN_NAME}"), key=lambda path: path.stat().st_mtime, reverse=True)
            if not earlier or revision != hub_cache.MAIN:
                raise
            return self._copies.local(str(earlier[0].parent))
        directory = folder / origin.identity
        stored = Origin.of(directory)
        if stored.identity == origin.identity:
            origin = stored  # a later commit that changed no weights
        with closing(HubSource(origin)) as source:
            hub.fetch_outline(origin, directory, source)
        return self._copies.local(str(directory))

    def forget(self, taken_before: float = math.inf) -> None:
        """Delete the outlines that are not kept, except those that were taken later, for a load that comes next."""
        for directory in (*self._home.outlines.glob("*"), *self._home.models.glob(f"*/{outline_message.ARRIVING}*")):
            if self._taken_at.get(directory.name, 0.0) < taken_before:
                shutil.rmtree(directory, ignore_errors=True)

    def _directory(self, model: str, content_hash: str, *, keep: bool) -> Path:
        if not _HASH.fullmatch(content_hash):
            raise InvalidRequestError(f"{content_hash[:80]!r} is not the hash of a content")
        return (self._home.folder_of(model) if keep else self._home.outlines) / content_hash


@contextmanager
def of_node(name: str) -> Iterator[None]:
    """Put the name of a node before the error of its files: paths are the same on all nodes."""
    try:
        yield
    except CheckpointError as error:
        raise type(error)(f"node {name}: {error}") from error


def require_room(model: str, parts: Mapping[str, pb.AdoptReply]) -> None:
    """Raise ClusterError if a disk has too little room for a node's part; `parts` by the names of the nodes."""
    full = {name: part for name, part in parts.items() if part.stored_bytes > part.free_bytes}
    if full:
        rooms = "; ".join(_room(name, part.stored_bytes, part) for name, part in full.items())
        raise ClusterError(
            f"{model} does not fit the disks of these nodes: {rooms}; delete files there "
            f"(`moe-cluster rm MODEL` deletes a model), or add a node"
        )


def _room(name: str, nbytes: int, part: pb.AdoptReply) -> str:
    return f"{name} {bytes_text(nbytes)}, {bytes_text(part.free_bytes)} free"

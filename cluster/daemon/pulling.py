"""Pulling: copies a model to the disks of the cluster's nodes, each its part or some the whole, until it is ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from cluster.daemon.acquiring import of_node, require_room
from cluster.daemon.serving import Serving
from cluster.daemon.state import NodeState
from cluster.errors import ClusterError
from cluster.rpc_errors import translated
from cluster.wire import node_pb2 as pb
from mlx_moe.errors import InvalidRequestError, MoeClusterError

log = logging.getLogger(__name__)

PROGRESS_S = 0.2


class Pulling:
    """Runs one pull at a time, whoever follows it."""

    def __init__(self, state: NodeState, serving: Serving) -> None:
        self._state = state
        self._serving = serving
        self._status = pb.PullStatus()
        self._request = pb.PullRequest()
        self._running: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()

    async def pull(self, request: pb.PullRequest) -> AsyncIterator[pb.PullStatus]:
        """Pull a model; yield the progress until all is there. It continues if the caller disconnects.

        Raises:
            ClusterError: another model is being pulled, or a disk has too little room.
            InvalidRequestError: there is no such model or node.
            MoeClusterError: a node failed; what the nodes have is kept.
        """
        if request.dry_run:
            yield (await self._parts(request))[1]
            return
        async with self._one_at_a_time:
            if self._running is None or self._running.done():
                parts, self._status = await self._parts(request)
                self._request = request
                self._running = asyncio.create_task(self._run(parts))
                self._running.add_done_callback(lambda task: task.cancelled() or task.exception())
            elif request != self._request:
                raise ClusterError(
                    f"{self._status.model} is being pulled: wait until it is there, or end that with moe-cluster unload"
                )
            running = self._running
        while not running.done():
            yield self._status
            await asyncio.wait((running,), timeout=PROGRESS_S)
        if running.cancelled():
            raise ClusterError(f"the pull of {request.load.model} was ended; the same command goes on")
        running.result()
        yield self._status

    async def end(self) -> str:
        """End a running pull; return the model's name, "" if there is none."""
        if self._running is None or self._running.done():
            return ""
        self._running.cancel()
        with suppress(asyncio.CancelledError, MoeClusterError):
            await self._running
        return self._status.model

    async def _parts(self, request: pb.PullRequest) -> tuple[dict[str, pb.AdoptRequest], pb.PullStatus]:
        """Return what each node is to fetch, by node id, and the status before that. Raises as `pull`."""
        placed = await self._serving.placed(request.load)
        placement, holders = placed.placement, placed.holders
        node_ids = [self._node_id(name) for name in request.nodes] or placement.node_ids
        asked = self._serving.acquiring.part(request.load, placement, holders, keep=True)
        if request.nodes:
            asked.placement = ""
        lacking = [node_id for node_id in node_ids if node_id not in holders]
        found = await self._serving.acquiring.adopted(asked, lacking)
        require_room(request.load.model, found)
        source = ", ".join(map(self._state.name, holders)) or placed.own.repo_id
        status = pb.PullStatus(
            model=request.load.model,
            nodes=[
                pb.NodeProgress(name=name, total_bytes=part.missing_bytes, free_bytes=part.free_bytes, source=source)
                for name, part in found.items()
            ],
        )
        return dict.fromkeys(lacking, asked), status

    async def _run(self, parts: dict[str, pb.AdoptRequest]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for node_id, asked in parts.items():
                    tasks.create_task(self._fetch(node_id, asked))
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _fetch(self, node_id: str, asked: pb.AdoptRequest) -> None:
        name = self._state.name(node_id)
        shown = next(node for node in self._status.nodes if node.name == name)
        call = self._serving.stub(node_id).Fetch(asked)
        try:
            with of_node(name), translated(f"node {name}", node_id):
                async for progress in call:
                    if progress.total_bytes:
                        shown.done_bytes, shown.source = progress.done_bytes, progress.source
            shown.done_bytes = shown.total_bytes
        finally:
            call.cancel()

    def _node_id(self, name: str) -> str:
        """Return the id of a present node. Raises InvalidRequestError."""
        ids = {self._state.name(node_id): node_id for node_id in (self._state.own.node_id, *self._state.present)}
        if name not in ids:
            raise InvalidRequestError(f"there is no node {name!r} here; present are {', '.join(sorted(ids))}")
        return ids[name]

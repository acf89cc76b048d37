"""Epoch: a worker's part of one placement, from opening its port to closing its links.

A later epoch may reuse what it holds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

import grpc

from cluster.membership.listening import Listening
from cluster.trust.call_rules import CallRules
from cluster.trust.credentials import SERVER_OPTIONS, Credentials
from cluster.wire import worker_pb2 as pb
from cluster.worker import callers, memory_guard
from cluster.worker.connections import Connections
from cluster.worker.coordinator_service import CoordinatorService
from cluster.worker.loading import Loaded, LoadedExperts
from cluster.worker.memory_guard import MemoryUse
from cluster.worker.message_sizes import longest_received
from cluster.worker.messages import MAX_MESSAGE_BYTES
from cluster.worker.parts import Part, part_of, room_bytes
from cluster.worker.role import Role
from cluster.worker.watch import Watch
from mlx_moe import memory
from mlx_moe.errors import MoeClusterError
from mlx_moe.footprint import footprint_bytes, limited_bytes
from mlx_moe.pipeline.stage import Past
from mlx_moe.text.text_process import child_pids

GRACE_S = 1.0
"""Time for clients to read the end of their answers."""

ANSWERS_S = 86400.0
"""Time for the answers that were begun in an epoch to be written in later ones."""


class Epoch:
    """Serves from `connect` to `interrupt`; `ended` gets the error when it cannot continue.

    It opens `port`, so that clients reach the next epoch where they reached the last one; 0: any free one. Its node
    offers `memory_bytes`; 0: no limit. Its stage continues with the `past` of that of an earlier epoch.
    """

    def __init__(
        self,
        number: int,
        loaded: Loaded,
        role: Role,
        name: str,
        listening: Listening,
        credentials: Credentials,
        port: int = 0,
        memory_bytes: int = 0,
        past: Past | None = None,
    ) -> None:
        self.number = number
        self.loaded = loaded
        self.ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._role = role
        self._name = name
        self._credentials = credentials
        self._memory_bytes = limited_bytes(memory_bytes)
        self._planned_bytes = 0
        self._past = past
        allowed = CallRules(credentials, callers.rules(role, credentials))
        sizes = (
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_receive_message_length", longest_received(role, loaded)),
        )
        self._server = grpc.aio.server(interceptors=[allowed], options=(*SERVER_OPTIONS, *sizes))
        self.port = listening.bind(lambda address: credentials.add_port(self._server, address), port)
        self._serving: tuple[Part, Connections, asyncio.Task[None]] | None = None

    def stats(self) -> pb.WorkerStats | None:
        """Return counts and bytes; None if it does not serve."""
        if self._serving is None:
            return None
        stats = self._serving[0].stats()
        stats.memory.CopyFrom(self._use().to_message())
        return stats

    @property
    def watch(self) -> Watch | None:
        """What knows what it computes; None if it does not serve."""
        return None if self._serving is None else self._serving[0].watch

    async def connect(
        self,
        workers: Iterable[pb.WorkerAddress],
        connected: Callable[[], None],
        interrupted: CoordinatorService | None = None,
    ) -> None:
        """Serve, and open the links to the other workers; `connected` is called when they are open.

        The answers of an `interrupted` service continue, if this part coordinates.
        """
        connections = Connections(self._credentials, workers, self.number, self._end)
        part = part_of(
            *(self.loaded, self._role, self._name, self.number, self._credentials, connections),
            interrupted=interrupted,
            past=self._past,
        )
        self._past = None
        part.serve(self._server)
        await self._server.start()
        working = asyncio.create_task(self._work(part, connected))
        working.add_done_callback(self._worked)
        self._serving = part, connections, working

    async def interrupt(
        self, cause: MoeClusterError, disconnected: Callable[[], None]
    ) -> tuple[CoordinatorService | None, asyncio.Task[None]] | None:
        """Stop computing because of `cause`, call `disconnected`, and close the links; None if it does not serve.

        Returns:
            The service of clients, whose answers wait, if this part coordinates; and what ends when all its calls have.
        """
        if self._serving is None:
            return None
        (part, connections, working), self._serving = self._serving, None
        working.cancel()
        await asyncio.wait((working,))
        clients = part.interrupt(cause)
        self._past = part.past
        disconnected()
        await connections.close()  # ends the streams to others, so that their servers need not abort them
        return clients, asyncio.create_task(self._server.stop(GRACE_S if clients is None else ANSWERS_S))

    def past_for(self, role: Role) -> Past | None:
        """Return what a stage with another role continues with, once this one is interrupted; None: nothing fits."""
        former, later = self._role.placement, role.placement
        is_same = (former.model, former.content_hash, former.recipe) == (later.model, later.content_hash, later.recipe)
        if self._past is None or isinstance(self.loaded, LoadedExperts) or not role.leads or not is_same:
            return None
        return self._past if self._past.nbytes <= room_bytes(self.loaded, role) else None

    async def _work(self, part: Part, connected: Callable[[], None]) -> None:
        await part.connect()
        connected()
        self._planned_bytes = footprint_bytes(_pids()) + part.room_bytes + memory.temporary_bytes()
        guarding = asyncio.create_task(self._guard(part))
        try:
            await part.run()
        finally:
            guarding.cancel()

    async def _guard(self, part: Part) -> None:
        """Look at the memory from time to time."""
        while True:
            await part.note_memory(self._use())
            await asyncio.sleep(memory_guard.LOOK_S)

    def _use(self) -> MemoryUse:
        return MemoryUse(self._name, footprint_bytes(_pids()), self._memory_bytes, self._planned_bytes)

    def _worked(self, working: asyncio.Task[None]) -> None:
        if not working.cancelled() and (error := working.exception()) is not None:
            self._end(error)

    def _end(self, error: BaseException) -> None:
        if not self.ended.done():
            self.ended.set_result(error)


def _pids() -> list[int]:
    return [os.getpid(), *child_pids()]

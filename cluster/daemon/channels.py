"""Channels to other daemons, by node and address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from cluster.trust.credentials import Credentials
from cluster.trust.identity import ANY_NODE

KEPT_OF_NODE = 4
"""Channels to one node that stay open: it has a few networks, and moves between them."""

MAX_KEPT = 256

RETIRE_S = 5.0
"""How long a channel outlives its use: gRPC aborts the process if one is closed while a call starts."""


class Channels:
    """Channels are kept to addresses where their node has answered; of too many, the one not used longest closes."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._kept: dict[tuple[str, str], grpc.aio.Channel] = {}  # the one used last is last
        self._retired: set[asyncio.Task[None]] = set()
        self._generation = credentials.generation
        self._outdated: list[grpc.aio.Channel] = []  # with an earlier certificate of this node; calls still use them

    def get(self, node_id: str, target: str) -> grpc.aio.Channel:
        """Return the channel to a node at an address where it has answered."""
        self._leave_outdated()
        key = node_id, target
        channel = self._kept.pop(key, None)
        return self._keep(key, channel or self._credentials.aio_channel(target, node_id))

    @asynccontextmanager
    async def attempt(self, node_id: str, target: str) -> AsyncIterator[grpc.aio.Channel]:
        """Yield a channel to an address where a node may be, for a call; it stays open if the call succeeds.

        For ANY_NODE it is any node of the cluster, and the channel closes in any case.
        """
        self._leave_outdated()
        key = node_id, target
        if key in self._kept:
            yield self.get(node_id, target)
            return
        channel = self._credentials.aio_channel(target, node_id)
        try:
            yield channel
        except Exception:
            await channel.close()  # the call has ended
            raise
        except BaseException:
            self._retire(channel)
            raise
        if node_id == ANY_NODE or key in self._kept:
            self._retire(channel)
        else:
            self._keep(key, channel)

    def forget(self, node_id: str) -> None:
        """Close the channels to a node, which was removed from the cluster; their calls end."""
        for key in [key for key in self._kept if key[0] == node_id]:
            self._retire(self._kept.pop(key))

    async def close(self) -> None:
        """Close all channels."""
        retired = [*self._retired]
        for task in retired:
            task.cancel()  # which closes at once
        channels = (*self._kept.values(), *self._outdated)
        await asyncio.gather(*(channel.close() for channel in channels), *retired, return_exceptions=True)

    def _leave_outdated(self) -> None:
        """Make new channels if this node's certificate was renewed: the old one may end before the next connection."""
        if (now := self._credentials.generation) is not self._generation:
            self._generation = now
            self._outdated += self._kept.values()
            self._kept.clear()

    def _keep(self, key: tuple[str, str], channel: grpc.aio.Channel) -> grpc.aio.Channel:
        self._kept[key] = channel
        of_node = [other for other in self._kept if other[0] == key[0]]
        if len(of_node) > KEPT_OF_NODE or len(self._kept) > MAX_KEPT:
            oldest = of_node[0] if len(of_node) > KEPT_OF_NODE else next(iter(self._kept))
            self._retire(self._kept.pop(oldest))
        return channel

    def _retire(self, channel: grpc.aio.Channel) -> None:
        task = asyncio.create_task(_closed_later(channel))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)


async def _closed_later(channel: grpc.aio.Channel) -> None:
    try:
        await asyncio.sleep(RETIRE_S)
    finally:
        await channel.close()

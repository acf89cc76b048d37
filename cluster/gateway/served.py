"""Served: the model that the cluster serves, connected as long as requests use it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from cluster.client import ClusterStatus, ModelClient, NodeClient
from cluster.errors import NoClusterError, NotFoundError
from cluster.home import Home

FRESH_S = 1.0
"""How long a status of the cluster is used again."""

ANY_NAME = ("claude-", "default")
"""Names that begin so mean the served model: tools that speak Anthropic's API have a list of its models built in."""


@dataclass(slots=True)
class _Connection:
    """A client of the model that a coordinator serves, and how many requests use it."""

    client: ModelClient
    coordinator: tuple[str, str, str]  # model, node id and address
    users: int = 0
    is_current: bool = True


class Served:
    """Connects to this machine's node, and to the model that its cluster serves."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._node: NodeClient | None = None
        self._status: ClusterStatus | None = None
        self._read_at = 0.0
        self._connection: _Connection | None = None
        self._one_at_a_time = asyncio.Lock()

    async def status(self) -> ClusterStatus:
        """Return the cluster's status, at most FRESH_S old. Raises NoClusterError if no node runs."""
        async with self._one_at_a_time:
            return await self._fresh_status()

    async def node(self) -> NodeClient:
        """Return this machine's node. Raises NoClusterError if none runs."""
        async with self._one_at_a_time:
            return await self._own_node()

    async def name(self) -> str:
        """Return the name of the served model for clients. Raises NoClusterError if none is ready."""
        return name_of(_ready(await self.status()))

    @asynccontextmanager
    async def model(self, name: str | None) -> AsyncIterator[ModelClient]:
        """Use the served model.

        Raises:
            NoClusterError: none is served.
            NotFoundError: another one is.
        """
        async with self._one_at_a_time:
            status = await self._fresh_status()
            require_name(name, _ready(status))
            connection = await self._connected(status)
            connection.users += 1
        try:
            yield connection.client
        finally:
            connection.users -= 1
            await _close_if_unused(connection)

    async def close(self) -> None:
        """Close all connections."""
        if self._connection is not None:
            await self._connection.client.close()
        if self._node is not None:
            await self._node.close()

    async def _fresh_status(self) -> ClusterStatus:
        now = time.monotonic()
        if self._status is None or now - self._read_at > FRESH_S:
            node = await self._own_node()
            self._status, self._read_at = await node.status(), now
        return self._status

    async def _own_node(self) -> NodeClient:
        if self._node is None:
            self._node = await NodeClient.connect(self._home)
        return self._node

    async def _connected(self, status: ClusterStatus) -> _Connection:
        """Return the connection to the present coordinator; the former one is closed when nobody uses it."""
        assert self._node is not None
        assert status.serving is not None
        coordinator = (status.serving.model, status.serving.coordinator, status.coordinator_address)
        former = self._connection
        if former is not None and former.coordinator == coordinator:
            return former
        self._connection = _Connection(await self._node.model(status), coordinator)
        if former is not None:
            former.is_current = False
            await _close_if_unused(former)
        return self._connection


def name_of(model: str) -> str:
    """Return a model's name for clients: a repository's, or the last part of a path on one of the machines."""
    return model.rstrip("/").rpartition("/")[2] if model.startswith(("/", ".", "~")) else model


def require_name(name: str | None, model: str) -> None:
    """Raise NotFoundError unless a client's name for a model means the served one."""
    known = name_of(model)
    names = {known, known.rpartition("/")[2], model}
    if name and not name.startswith(ANY_NAME) and name.removesuffix(":latest") not in names:
        raise NotFoundError(f"the model {name[:200]!r} is not served; this cluster serves {known!r}")


def _ready(status: ClusterStatus) -> str:
    if status.ready is None:
        serving = status.serving
        how = "no model is loaded: moe-cluster up MODEL loads one"
        raise NoClusterError(how if serving is None else f"{name_of(serving.model)} is {serving.state.value}")
    return status.ready.model


async def _close_if_unused(connection: _Connection) -> None:
    if not connection.is_current and not connection.users:
        await connection.client.close()

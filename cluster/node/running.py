"""Running a node in this process: admission to a cluster, then a node's life, told of in values."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

from cluster.client.status import ServingStatus
from cluster.client.status_message import serving_status
from cluster.daemon.admission import Admission, admit
from cluster.daemon.daemon import Daemon, Settings
from cluster.home import Home
from cluster.membership.membership import Change, Happening
from cluster.membership.node_info import NodeInfo
from cluster.trust import JoinToken, TokenStore

__all__ = [
    "Admission",
    "Change",
    "Happening",
    "JoinToken",
    "NodeInfo",
    "NodeListener",
    "RunningNode",
    "Settings",
    "admit",
    "run_node",
]

SERVING_S = 0.5
"""How often it is looked whether what the cluster serves has changed."""


class NodeListener(Protocol):
    """Who hears of a node's life, in its event loop; what it raises ends the node."""

    def on_up(self, node: RunningNode) -> None:
        """Take note that the node can be reached."""

    def on_change(self, change: Change, here: Mapping[str, NodeInfo]) -> None:
        """Take note of what happened to another node; `here` are the nodes that count now, by their shown names."""

    def on_serving(self, serving: ServingStatus | None) -> None:
        """Take note of what became of the cluster's model, whoever loads it."""


class RunningNode:
    """A node of this process that is up."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        admission = daemon.admission
        self.cluster_id = admission.cluster_id
        self.insecure = admission.credentials.insecure
        self.began_cluster = admission.is_new
        self._authority = admission.authority

    @property
    def info(self) -> NodeInfo:
        """What it says of itself."""
        return self._daemon.state.own

    @property
    def lets_in(self) -> bool:
        """Whether it may let others into the cluster."""
        return self._authority is not None

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to end."""
        return self._daemon.stopped.is_set()

    def stop(self) -> None:
        """Let it end: unload, and say goodbye to the others."""
        self._daemon.stopped.set()

    async def create_token(self) -> JoinToken:
        """Return a new join token of the cluster that it began. Raises ClusterError."""
        assert self._authority is not None  # it lets others in
        store = TokenStore(self._daemon.home.tokens, self._authority.key_hash)
        return await asyncio.to_thread(store.create)


async def run_node(home: Home, settings: Settings, admission: Admission, listener: NodeListener) -> None:
    """Be a node until told to end, by its command line, a signal or `RunningNode.stop`.

    Raises:
        ClusterError: a port is taken, a node runs in this home already, or the hardware cannot be measured.
    """
    watching: list[asyncio.Task[None]] = []

    def on_up(daemon: Daemon) -> None:
        listener.on_up(RunningNode(daemon))
        watching.append(asyncio.get_running_loop().create_task(_watch_serving(daemon, listener)))

    def on_change(change: Change) -> None:
        state = daemon.state
        infos = [state.own, *(member.info for member in state.present.values())]
        listener.on_change(change, {state.name(info.node_id): info for info in infos})

    daemon = Daemon(home, settings, admission, on_up, on_change)
    try:
        await daemon.run()
    finally:
        for task in watching:
            task.cancel()


async def _watch_serving(daemon: Daemon, listener: NodeListener) -> None:
    told = None
    while not daemon.stopped.is_set():
        _, message = daemon.state.serving
        serving = serving_status(message)
        if (now := serving and (serving.epoch, serving.state)) != told:
            listener.on_serving(serving)
            told = now
        await asyncio.sleep(SERVING_S)

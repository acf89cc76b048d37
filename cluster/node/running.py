"""Running: runs a node in this process, from admission to a cluster until its end, and reports its events."""

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
"""How often to check whether the cluster's model has changed."""


class NodeListener(Protocol):
    """Receives a node's events in its event loop. An exception that it raises ends the node."""

    def on_up(self, node: RunningNode) -> None:
        """Handle that the node can be reached."""

    def on_change(self, change: Change, here: Mapping[str, NodeInfo]) -> None:
        """Handle a change of another node; `here` has the present nodes by their shown names."""

    def on_serving(self, serving: ServingStatus | None) -> None:
        """Handle a change of the cluster's model, whichever node loads it."""


class RunningNode:
    """A running node of this process."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        admission = daemon.admission
        self.cluster_id = admission.cluster_id
        self.insecure = admission.credentials.insecure
        self.began_cluster = admission.is_new
        self._authority = admission.authority

    @property
    def info(self) -> NodeInfo:
        """The node's info, as told to other nodes."""
        return self._daemon.state.own

    @property
    def lets_in(self) -> bool:
        """Whether it can admit nodes to the cluster."""
        return self._authority is not None

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._daemon.stopped.is_set()

    def stop(self) -> None:
        """Tell the node to stop: it unloads its model, tells the others, and ends."""
        self._daemon.stopped.set()

    async def create_token(self) -> JoinToken:
        """Return a new join token of the cluster that it created. Raises ClusterError."""
        assert self._authority is not None  # see `lets_in`
        store = TokenStore(self._daemon.home.tokens, self._authority.key_hash)
        return await asyncio.to_thread(store.create)


async def run_node(home: Home, settings: Settings, admission: Admission, listener: NodeListener) -> None:
    """Run a node until it is told to stop by the command line, a signal or `RunningNode.stop`.

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

"""A node in the foreground: the daemon in this process prints its news here and ends with Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Mapping
from contextlib import suppress

from cli.exit_codes import ExitCode
from cli.loading import load_when_it_fits
from cli.news import News
from cluster import log_files
from cluster.client import GatewayOptions, NodeClient, ServingStatus, Wanted
from cluster.errors import ClusterError
from cluster.home import Home
from cluster.node.options import NodeOptions
from cluster.node.running import Admission, Change, NodeInfo, RunningNode, Settings, run_node
from mlx_moe.errors import MoeClusterError


class ForegroundNode:
    """Runs a node and loads a model once it is up. `leashed`: the node ends when standard input closes.

    `settings` were made from `options`; the home stores `options` once the node is up.
    """

    def __init__(
        self,
        home: Home,
        settings: Settings,
        options: NodeOptions,
        wanted: Wanted | None,
        news: News,
        *,
        serve: bool,
        leashed: bool,
    ) -> None:
        self._home = home
        self._settings = settings
        self._options = options
        self._wanted = wanted
        self._news = news
        self._serve = serve
        self._leashed = leashed
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, admission: Awaitable[Admission]) -> None:
        """Wait for the admission, then run a node until it is told to stop. Raises as admission and `run_node` do."""
        admitted = await admission
        _log_to_file(self._home)
        await run_node(self._home, self._settings, admitted, self)
        self._news.say(f"{self._settings.name} is down", "bright_black")

    def on_up(self, node: RunningNode) -> None:
        """See NodeListener."""
        self._node = node
        self._remember()
        self._news.own(node.info, node.cluster_id, node.insecure)
        loop = asyncio.get_running_loop()
        if node.lets_in and not self._news.console.quiet:
            self._tasks.append(loop.create_task(self._tell_how_to_join()))
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        if self._leashed:
            loop.add_reader(sys.stdin.fileno(), node.stop)  # readable only at its end: the parent writes nothing more
        if self._serve:
            self._tasks.append(loop.create_task(self._serve_api()))
        if self._wanted is not None:
            self._tasks.append(loop.create_task(self._load(self._wanted)))

    def on_change(self, change: Change, here: Mapping[str, NodeInfo]) -> None:
        """See NodeListener."""
        self._news.change(change, here)

    def on_serving(self, serving: ServingStatus | None) -> None:
        """See NodeListener."""
        self._news.serving(serving)

    def _remember(self) -> None:
        try:
            if NodeOptions.read(self._home.options) != self._options:
                self._options.write(self._home.options)
        except ClusterError as error:
            self._news.error(f"the options of this `up` are not remembered: {error}")

    async def _tell_how_to_join(self) -> None:
        if not self._node.began_cluster:  # earlier tokens may still be valid, and only their hashes are stored
            self._news.may_let_in()
            return
        try:
            token = await self._node.create_token()
            self._news.how_to_join(token, self._node.info.addresses[0], self._options.host)
        except ClusterError as error:
            self._news.error(str(error))

    def _interrupted(self) -> None:
        if self._node.is_stopping:
            self._news.console.show_cursor(True)
            os._exit(ExitCode.INTERRUPTED)  # workers end when their standard input, held by this process, closes
        self._news.say("stopping: unloading, telling the other nodes; Ctrl-C again stops at once", "bright_black")
        self._node.stop()

    async def _serve_api(self) -> None:
        try:
            async with await NodeClient.connect(self._home) as node:
                self._news.api(await node.serve(GatewayOptions()))
        except MoeClusterError as error:
            self._news.error(str(error))

    async def _load(self, wanted: Wanted) -> None:
        """Load the model over the node's control port, as any client does."""
        try:
            async with await NodeClient.connect(self._home) as node:
                if not self._node.began_cluster:
                    await node.meet_others()
                await load_when_it_fits(node, wanted, self._news)
        except MoeClusterError as error:
            if not self._node.is_stopping:
                self._news.error(str(error))


def _log_to_file(home: Home) -> None:
    """Write the log to a file in the home; the terminal shows only the news."""
    logging.raiseExceptions = False  # a logging error (full disk) must not print
    with suppress(OSError):  # it may be no file
        log_files.bound(sys.stderr.fileno())  # launchd appends to it at each start
    handler = log_files.LogFile(home.logs / log_files.DAEMON)
    if not logging.getLogger("cluster").isEnabledFor(logging.DEBUG):
        logging.root.handlers.clear()
        for package in ("cli", "cluster", "mlx_moe"):
            logging.getLogger(package).setLevel(logging.INFO)
    logging.root.addHandler(handler)

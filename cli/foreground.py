"""A node in the foreground: the daemon in this process, with its news on this terminal and Ctrl-C to end it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable
from logging.handlers import RotatingFileHandler

from cli.exit_codes import ExitCode
from cli.loading import Wanted, load_when_it_fits, meet_others
from cli.news import News
from cluster.client import OwnNode
from cluster.daemon.admission import Admission
from cluster.daemon.daemon import Daemon, Settings
from cluster.errors import ClusterError
from cluster.home import Home
from cluster.membership.membership import Change
from cluster.node.options import NodeOptions
from cluster.trust import Authority, TokenStore
from mlx_moe.errors import MoeClusterError

SERVING_S = 0.5
"""How often it is looked whether what the cluster serves has changed."""

LOG_BYTES = 4 << 20


class ForegroundNode:
    """A node and, once it is up, the loading of a model. `leashed`: it ends when standard input does.

    `options` are what `settings` were made of; the home remembers them once the node is up.
    """

    def __init__(
        self,
        home: Home,
        settings: Settings,
        options: NodeOptions,
        wanted: Wanted | None,
        news: News,
        *,
        leashed: bool,
    ) -> None:
        self._home = home
        self._settings = settings
        self._options = options
        self._wanted = wanted
        self._news = news
        self._leashed = leashed
        self._daemon: Daemon

    async def run(self, admission: Awaitable[Admission]) -> None:
        """Be a node, once it is admitted, until told to end. Raises what admission and `Daemon.run` do."""
        self._daemon = Daemon(self._home, self._settings, await admission, self._on_up, self._on_change)
        _log_to_file(self._home)
        await self._daemon.run()
        self._news.say(f"{self._settings.name} is down", "bright_black")

    def _on_up(self, daemon: Daemon) -> None:
        own, admission = daemon.state.own, daemon.admission
        self._remember()
        self._news.own(own, admission.cluster_id, admission.credentials.insecure)
        loop = asyncio.get_running_loop()
        if admission.authority is not None and not self._news.console.quiet:
            self._telling = loop.create_task(self._tell_how_to_join(admission.authority, admission.is_new))
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        if self._leashed:
            loop.add_reader(sys.stdin.fileno(), self._daemon.stopped.set)  # nobody writes there: it has ended
        self._watching = loop.create_task(self._watch_serving())
        if self._wanted is not None:
            threading.Thread(target=self._load, args=(self._wanted,), daemon=True).start()

    def _remember(self) -> None:
        try:
            if NodeOptions.read(self._home.options) != self._options:
                self._options.write(self._home.options)
        except ClusterError as error:
            self._news.error(f"the options of this `up` are not remembered: {error}")

    async def _tell_how_to_join(self, authority: Authority, is_new: bool) -> None:
        if not is_new:  # what was given out may still be good, and only its hash is kept
            self._news.may_let_in()
            return
        try:
            token = await asyncio.to_thread(TokenStore(self._home.tokens, authority.key_hash).create)
            self._news.how_to_join(token, self._daemon.state.own.addresses[0], self._options.host)
        except ClusterError as error:
            self._news.error(str(error))

    def _on_change(self, change: Change) -> None:
        state = self._daemon.state
        infos = [state.own, *(member.info for member in state.present.values())]
        self._news.change(change, {state.name(info.node_id): info for info in infos})

    def _interrupted(self) -> None:
        if self._daemon.stopped.is_set():
            self._news.console.show_cursor(True)
            os._exit(ExitCode.INTERRUPTED)  # workers end with their standard input, which is ours
        self._news.say("stopping: unloading, telling the other nodes; Ctrl-C again stops at once", "bright_black")
        self._daemon.stopped.set()

    def _load(self, wanted: Wanted) -> None:
        """Load the model as everybody does, over the node's control port; waits, and so has its own thread."""
        try:
            with OwnNode.connect(self._home) as node:
                if not self._daemon.admission.is_new:
                    meet_others(node)
                load_when_it_fits(node, wanted, self._news)
        except MoeClusterError as error:
            if not self._daemon.stopped.is_set():
                self._news.error(str(error))

    async def _watch_serving(self) -> None:
        """Say what becomes of the cluster's model, whoever loads it."""
        told = (0, 0)
        while not self._daemon.stopped.is_set():
            _, serving = self._daemon.state.serving
            if (now := (serving.epoch, serving.state)) != told:
                self._news.serving(serving)
                told = now
            await asyncio.sleep(SERVING_S)


def _log_to_file(home: Home) -> None:
    """Send what is logged to the home's log, which is read when something is wrong; the terminal gets the news."""
    logging.raiseExceptions = False  # a full disk is no news of a log
    handler = RotatingFileHandler(home.logs / "daemon.log", maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    if not logging.getLogger("cluster").isEnabledFor(logging.DEBUG):
        logging.root.handlers.clear()
        for package in ("cli", "cluster", "mlx_moe"):
            logging.getLogger(package).setLevel(logging.INFO)
    logging.root.addHandler(handler)

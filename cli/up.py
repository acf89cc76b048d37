"""up: this machine becomes a node; where it is one already, a model is loaded on its cluster."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from cli.backend import lasting
from cli.background import BackgroundNode
from cli.foreground import ForegroundNode
from cli.loading import Wanted, load, meet_others
from cli.news import News
from cli.status import print_status
from cluster.address import is_address, is_loopback
from cluster.client import OwnNode
from cluster.daemon.admission import Admission, admit
from cluster.daemon.daemon import Settings
from cluster.daemon.node_message import from_message
from cluster.errors import NoClusterError
from cluster.home import Home
from cluster.listening import Listening
from cluster.placement import Placement
from cluster.trust import TokenStore
from mlx_moe import library
from mlx_moe.errors import InvalidRequestError

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(B|MB|MiB|GB|GiB)", re.IGNORECASE | re.ASCII)
_UNITS = {"b": 1, "mb": 10**6, "mib": 1 << 20, "gb": 10**9, "gib": 1 << 30}


@dataclass(frozen=True, slots=True)
class Manner:
    """How a node comes up. `join` is a token's text; `new` begins a cluster though one is here."""

    settings: Settings
    join: str | None = None
    new: bool = False
    insecure: bool = False

    async def admit(self, home: Home) -> Admission:
        """Return the node's admission to a cluster. Raises as `admission.admit`."""
        return await admit(home, self.join, self.settings.peers, insecure=self.insecure, new=self.new)


def parse_bytes(text: str) -> int:
    """Read "48GB" or "1.5 GiB". Raises InvalidRequestError."""
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise InvalidRequestError(f"{text[:40]!r} is not an amount of memory like 48GB or 44GiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def settings(
    name: str | None, host: str | None, port: int | None, memory: str | None, peers: list[str] | None
) -> Settings:
    """Return how the node is to come up; what is None has its default. Raises InvalidRequestError."""
    listening = Listening.at(host or "")
    for peer in peers or ():
        if not is_address(peer):
            raise InvalidRequestError(f"--peer takes HOST:PORT; this is {peer[:80]!r}")
        if listening.is_private and not is_loopback(peer):
            raise InvalidRequestError(
                f"{peer} could not reach this node, which with --host {host} only this machine can: leave --host out"
            )
    asked = Settings(name or _own_name(), peers=tuple(peers or ()))
    return replace(
        asked,
        host=asked.host if host is None else host,
        port=asked.port if port is None else port,
        memory_bytes=None if memory is None else parse_bytes(memory),
    )


def _own_name() -> str:
    return socket.gethostname().partition(".")[0] or "node"


def wanted(
    model: str | None, plan: str | None, context: int | None, users: int | None, draft: str | None
) -> Wanted | None:
    """Return what is to be loaded, if anything; sees that it is there before anything is begun.

    Raises:
        InvalidRequestError: there is no such model or plan, or the plan is for another model.
    """
    placement = None if plan is None else _read_plan(plan)
    named = model if model is not None or placement is None else placement.model
    if named is None:
        if context is not None or users is not None or draft is not None:
            raise InvalidRequestError("--context, --users and --draft are for a MODEL, and none is named")
        return None
    name = lasting(named)
    if placement is not None and lasting(placement.model) != name:
        raise InvalidRequestError(f"the plan in {plan} is for {placement.model}, not for {model}")
    library.locate(name)
    return Wanted(name, placement, context or 0, users or 0, draft or "")


def up(manner: Manner, wanted: Wanted | None, *, silent: bool = False, leashed: bool = False) -> None:
    """Be a node until told to end. `silent` says nothing; `leashed` ends when standard input does."""
    home, news = Home.default(), News(_console(silent))
    if _runs_already(home, manner, wanted, news):
        return
    if news.console.is_terminal:
        news.say("measuring this machine, looking who is here", "bright_black")
    asyncio.run(ForegroundNode(home, manner.settings, wanted, news, leashed=leashed).run(manner.admit(home)))


def up_detached(manner: Manner, wanted: Wanted | None) -> None:
    """Start a node that stays when this process ends; return when it is up, and the model loaded."""
    home, news = Home.default(), News(_console())
    if _runs_already(home, manner, wanted, news):
        return
    admission = asyncio.run(manner.admit(home))  # here, where it can be told what is wrong
    with BackgroundNode(home, manner.settings, insecure=manner.insecure, leash=False).connect() as node:
        status = node.status()
        own = from_message(status.nodes[0].info)
        news.own(own, status.cluster_id, status.insecure)
        if admission.authority is not None:
            token = TokenStore(home.tokens, admission.authority.key_hash).create()
            news.how_to_join(token, own.addresses[0])
        news.say("it runs in the background: moe-cluster status shows it, moe-cluster down ends it", "bright_black")
        if wanted is not None:
            if not admission.is_new:
                meet_others(node)
            _load(node, wanted, news)


def _runs_already(home: Home, manner: Manner, wanted: Wanted | None, news: News) -> bool:
    """Return whether this home has a node; if so, load the model on its cluster, or show how it stands."""
    with suppress(NoClusterError), OwnNode.connect(home) as node:
        status = node.status()
        name = status.nodes[0].shown_name
        if manner.join is not None or manner.new or manner.insecure:
            raise InvalidRequestError(f"{name} is up already, in cluster {status.cluster_id}: moe-cluster down ends it")
        news.say(f"{name} is up already", "bright_black")
        if wanted is None:
            print_status(status, news.console)
        else:
            _load(node, wanted, news)
        return True
    return False


def _load(node: OwnNode, wanted: Wanted, news: News) -> None:
    load(node, wanted, news.console)
    news.serving(node.status().serving)


def _read_plan(path: str) -> Placement:
    try:
        value = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"the plan in {path} cannot be read: {error}") from error
    return Placement.from_json(value.get("placement", value) if isinstance(value, dict) else value)


def _console(silent: bool = False) -> Console:
    return Console(markup=False, emoji=False, highlight=False, quiet=silent)

"""up: starts a node on this machine; if one runs already, loads a model on its cluster."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from cli import remote
from cli.backend import lasting
from cli.background import BackgroundNode
from cli.foreground import ForegroundNode
from cli.interrupt import Interrupt
from cli.loading import load
from cli.news import News
from cli.options import LoadOptions
from cli.rebalance import hint
from cli.status import print_status
from cluster.client import GatewayOptions, OwnNode, Wanted
from cluster.errors import NoClusterError
from cluster.home import Home
from cluster.membership.address import is_loopback
from cluster.membership.listening import Listening
from cluster.node.options import NodeOptions
from cluster.node.running import Settings, admit
from cluster.node.tokens import holds_authority, is_member, join_tokens
from cluster.placement import Placement
from mlx_moe.checkpoint import library
from mlx_moe.errors import InvalidRequestError, MoeClusterError

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(B|MB|MiB|GB|GiB)", re.IGNORECASE | re.ASCII)
_UNITS = {"b": 1, "mb": 10**6, "mib": 1 << 20, "gb": 10**9, "gib": 1 << 30}


@dataclass(frozen=True, slots=True)
class StartOptions:
    """How to start a node. `options` are those given now; with `defaults` the stored ones are forgotten.

    `join` is a join token; `new` creates a cluster even if this network has one.

    Raises:
        InvalidRequestError: `--join` and `--new` together.
    """

    options: NodeOptions
    join: str | None = None
    new: bool = False
    insecure: bool = False
    defaults: bool = False

    def __post_init__(self) -> None:
        if self.join is not None and self.new:
            raise InvalidRequestError("--join joins a cluster and --new creates one: give one of them")

    def all_options(self, home: Home) -> NodeOptions:
        """Return the options given now, completed by the stored ones. Raises ClusterError."""
        return self.options if self.defaults else self.options.over(NodeOptions.read(home.options))

    @property
    def flags(self) -> list[str]:
        """The flags as typed."""
        flags = {"--new": self.new, "--insecure": self.insecure, "--defaults": self.defaults}
        return [flag for flag, is_set in flags.items() if is_set]


def parse_bytes(text: str) -> int:
    """Read "48GB" or "1.5 GiB". Raises InvalidRequestError."""
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise InvalidRequestError(f"{text[:40]!r} is not an amount of memory; write it like 48GB or 44GiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def options(
    name: str | None,
    host: str | None,
    port: int | None,
    memory: str | None,
    peers: list[str] | None,
    rebalance: bool | None = None,
) -> NodeOptions:
    """Return the given options. Raises InvalidRequestError."""
    memory_bytes = None if memory is None else parse_bytes(memory)
    if memory_bytes == 0:
        raise InvalidRequestError(f"--memory must be more than 0, such as --memory 48GB; got {memory}")
    return NodeOptions(name, host, port, memory_bytes, tuple(peers) if peers else None, rebalance)


def _settings(options: NodeOptions) -> Settings:
    """Return the node's settings, with defaults for missing options. Raises InvalidRequestError."""
    listening = Listening.at(options.host or "")
    for peer in options.peers or ():
        if listening.is_private and not is_loopback(peer):
            raise InvalidRequestError(
                f"{peer} could not reach this node: with --host {options.host} only this machine can; give --host ::"
            )
    default = Settings(_own_name())
    return Settings(
        options.name or default.name,
        default.host if options.host is None else options.host,
        default.port if options.port is None else options.port,
        options.memory_bytes,
        options.peers or (),
        default.rebalance if options.rebalance in (None, True) else None,
    )


def _own_name() -> str:
    return socket.gethostname().partition(".")[0] or "node"


def wanted(
    model: str | None,
    plan: str | None,
    users: int | None,
    draft: str | None,
    options: LoadOptions,
    *,
    standby: bool = False,
) -> Wanted | None:
    """Return the model to load, if any, after checking that it exists, or may exist on another node or the hub.

    Raises:
        InvalidRequestError: the model or plan does not exist, or the plan is for another model.
    """
    placement = None if plan is None else _read_plan(plan)
    named = model if model is not None or placement is None else placement.model
    if named is None:
        if (users, draft, standby) != (None, None, False) or options != LoadOptions(replace=True):
            raise InvalidRequestError(
                "--context, --users, --draft, --standby, --chunk, --latency, --bits, --mode, --keep and --yes need a "
                "MODEL"
            )
        return None
    if placement is not None and (options.chunk, options.latency_s) != (None, None):
        cut = f"--latency {options.latency_s:g}" if options.chunk is None else f"--chunk {options.chunk}"
        raise InvalidRequestError(
            f"the plan in {plan} already sets the chunks; make a new plan: moe-cluster plan "
            f"{shlex.quote(placement.model)} {cut} --json"
        )
    if placement is not None and standby:
        raise InvalidRequestError(
            f"the plan in {plan} already says what is spared; make a new plan: moe-cluster plan "
            f"{shlex.quote(placement.model)} --standby --json"
        )
    name = lasting(named)
    if placement is not None and lasting(placement.model) != name:
        raise InvalidRequestError(f"the plan in {plan} is for {placement.model}, not for {model}")
    try:
        library.locate(name)
    except InvalidRequestError as missing:
        try:
            library.on_hub(name)
        except InvalidRequestError:
            if not Home.default().folder_of(name).exists():  # else a part of it is kept
                raise missing from None
    wanted = remote.wanted(name, options)
    return replace(wanted, plan=placement, users=users or 0, draft=draft or "", standby=standby)


def up(
    start: StartOptions, wanted: Wanted | None, *, serve: bool = False, silent: bool = False, leashed: bool = False
) -> None:
    """Run a node until it is told to stop.

    With `serve` it serves the HTTP APIs; `silent` prints nothing; `leashed` ends when stdin closes.
    """
    home, news = Home.default(), News(_console(silent))
    home.create()
    if _runs_already(home, start, wanted, news, serve=serve):
        return
    options = start.all_options(home)
    _tell_remembered(options, start.options, news)
    if news.console.is_terminal:
        news.say("measuring this machine, looking for other nodes", "bright_black")
    settings = _settings(options)
    admission = admit(home, start.join, settings.peers, insecure=start.insecure, new=start.new)
    node = ForegroundNode(home, settings, options, wanted, news, serve=serve, leashed=leashed)
    asyncio.run(node.run(admission))


def up_detached(start: StartOptions, wanted: Wanted | None, *, serve: bool = False) -> None:
    """Start a node that outlives this process; return once it is up and the model is loaded."""
    home, news = Home.default(), News(_console())
    home.create()
    if _runs_already(home, start, wanted, news, serve=serve):
        return
    options = start.all_options(home)
    _tell_remembered(options, start.options, news)
    _settings(options)  # checks the options before the start
    begins = start.join is None and not is_member(home)
    with Interrupt() as interrupt:  # defers Ctrl-C until the node has been reported
        started = BackgroundNode(home, start.options, start.flags, token=start.join, leash=False)
        with started.connect(interrupt.check) as node:
            _tell_background(node, begins, home, options.host, news)
            if serve:
                news.api(node.serve(GatewayOptions()))
    if wanted is not None:
        interrupt.check()
        with OwnNode.connect(home) as node:
            if not begins:
                node.meet_others()
            _load(node, wanted, news)


def _tell_background(node: OwnNode, begins: bool, home: Home, host: str | None, news: News) -> None:
    """Report the started node and how others join it."""
    status = node.status()
    own = status.own.info
    news.own(own, status.cluster_id, status.insecure)
    if begins and not status.insecure:
        news.how_to_join(join_tokens(home).create(), own.addresses[0], host)
    elif holds_authority(home) and not status.insecure:
        news.may_let_in()
    news.say("it runs in the background: moe-cluster status shows it, moe-cluster down ends it", "bright_black")


def _tell_remembered(options: NodeOptions, given: NodeOptions, news: News) -> None:
    """Say which options come from an earlier `up`."""
    earlier = options.words()
    for word in given.words():
        earlier.remove(word)
    if earlier:
        news.say(f"as before: {shlex.join(options.words())} (moe-cluster up --defaults forgets that)", "bright_black")


def _runs_already(home: Home, start: StartOptions, wanted: Wanted | None, news: News, *, serve: bool) -> bool:
    """Return whether a node runs in this home; if so, load the model on its cluster or show the state."""
    with suppress(NoClusterError), OwnNode.connect(home) as node:
        status = node.status()
        name = status.own.shown_name
        if start.join is not None or start.flags:
            raise InvalidRequestError(
                f"{name} is up already, in cluster {status.cluster_id}; moe-cluster down stops it"
            )
        if start.all_options(home) != NodeOptions.read(home.options):
            words = shlex.join(start.options.words())
            raise InvalidRequestError(
                f"{name} is up already, with options other than {words}; moe-cluster down stops it"
            )
        news.say(f"{name} is up already", "bright_black")
        if serve:
            news.api(status.api_url or node.serve(GatewayOptions()))
        if wanted is None:
            print_status(status, news.console)
        else:
            _load(node, wanted, news)
        return True
    return False


def _load(node: OwnNode, wanted: Wanted, news: News) -> None:
    before = node.status().ready
    load(node, wanted, news.console)
    status = node.status()
    news.serving(status.serving)
    if wanted.standby and not any(held and held.spare_layers for held in (n.holding for n in status.nodes)):
        news.say("no node has room for a spare copy of a stage (--standby): a loss is repaired from disk", "yellow")
    if before is not None and status.ready == before:  # it was there already
        with suppress(MoeClusterError):
            if line := hint(node):
                news.say(line, "bright_black")


def _read_plan(path: str) -> Placement:
    try:
        value = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the plan in {path} cannot be read: {error}") from error
    return Placement.from_json(value.get("placement", value) if isinstance(value, dict) else value)


def _console(silent: bool = False) -> Console:
    return Console(markup=False, emoji=False, highlight=False, quiet=silent)

"""Loading a model on the cluster, with a bar for each node. It goes on where whoever asked for it leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cli.asking import ask
from cli.news import News
from cli.progress import BAR_COLUMNS
from cli.visible import short_name, visible
from cluster.client import OwnNode
from cluster.errors import NodeLostError, OccupiedError, PlacementError
from cluster.placement import Placement
from cluster.wire import node_pb2 as pb

if TYPE_CHECKING:
    from rich.console import Console

POLL_S = 0.25

MEET_S = 2.0
"""A node that comes to others has met them all when so long no further one is met."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model, and how it is to be placed: by a plan, or as the cluster finds best. 0 is what the cluster chooses.

    `draft` is "mtp", "ngram", "none" or a small model; "" the best that the model offers. With `replace` it takes the
    place of another model that is idle. `chunk` is the length of every prompt's chunks.
    """

    model: str
    plan: Placement | None = None
    context_tokens: int = 0
    users: int = 0
    draft: str = ""
    replace: bool = False
    chunk: int = 0


def load(node: OwnNode, wanted: Wanted, console: Console | None = None) -> pb.LoadStatus:
    """Load a model, or find that it is loaded; return how that went. Bars are drawn on `console`, or on stderr.

    A person is asked whether it may take the place of another one.

    Raises:
        DeclinedError: the person says no.
        MoeClusterError: it cannot be loaded, or failed meanwhile.
    """
    try:
        return _load(node, wanted, console)
    except OccupiedError:
        served = short_name(node.status().serving.model)
        question = f"The cluster serves {served}. Load {short_name(wanted.model)} in its place?"
        if not ask(question, f"{served} stays loaded"):
            raise
    return _load(node, replace(wanted, replace=True), console)


def _load(node: OwnNode, wanted: Wanted, console: Console | None) -> pb.LoadStatus:
    status = pb.LoadStatus()
    steps = node.load(
        wanted.model,
        placement=wanted.plan,
        context_tokens=wanted.context_tokens,
        concurrency=wanted.users,
        draft=wanted.draft,
        replace=wanted.replace,
        chunk_length=wanted.chunk,
    )
    with _bars(console) as show:
        for status in steps:
            show(status)
    return status


def load_when_it_fits(node: OwnNode, wanted: Wanted, news: News) -> None:
    """Load a model as `load` does; where it does not fit, say what is missing, and try again with each more node."""
    while True:
        here = offers(node.status())
        try:
            load(node, wanted, news.console)
            return
        except PlacementError as error:
            news.say(str(error), "yellow")
            news.say("waiting for more nodes; Ctrl-C ends", "bright_black")
        while not offers(node.status()).keys() - here.keys():
            time.sleep(POLL_S)
        meet_others(node)


def meet_others(node: OwnNode) -> None:
    """Wait until no further node has come for a while: who joins a cluster knows it one by one."""
    known = offers(node.status()).keys()
    quiet_until = time.monotonic() + MEET_S
    while time.monotonic() < quiet_until:
        time.sleep(POLL_S)
        if (here := offers(node.status()).keys()) - known:
            known, quiet_until = here, time.monotonic() + MEET_S


def offers(status: pb.ClusterStatus) -> dict[str, int]:
    """Return the bytes that each node offers that is here."""
    return {node.info.node_id: node.info.offered_bytes for node in status.nodes if node.state == "present"}


def settled(node: OwnNode, deadline_s: float = 10.0) -> pb.ClusterStatus:
    """Return the status once all nodes have told what they hold: those that were loaded a moment ago tell it late.

    Raises:
        NodeLostError: the model was lost meanwhile.
    """
    deadline = time.monotonic() + deadline_s
    while True:
        status = node.status()
        if status.serving.state != pb.Serving.READY:
            raise NodeLostError(
                f"{status.serving.model} is not served any more: {status.serving.failure or 'unloaded'}"
            )
        told = {
            n.info.node_id
            for n in status.nodes
            if n.holding.epoch == status.serving.epoch and n.holding.stats.peak_memory_bytes
        }
        if (told >= set(status.serving.node_ids) and status.coordinator_address) or time.monotonic() > deadline:
            return status
        time.sleep(POLL_S / 5)


@contextmanager
def _bars(console: Console | None) -> Iterator[Callable[[pb.LoadStatus], None]]:
    """Yield what draws how far each node is, once the workers run; it draws nothing unless on a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = console or Console(stderr=True, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        yield lambda _status: None
        return
    tasks: dict[str, TaskID] = {}
    name, bar = TextColumn("{task.description}", markup=False), BarColumn(bar_width=BAR_COLUMNS)
    amounts = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True)
    progress = Progress(name, bar, *amounts, console=console, transient=True)
    waiting = console.status("starting the workers")

    def show(status: pb.LoadStatus) -> None:
        if status.nodes and not tasks:
            waiting.stop()
            progress.start()
        for node in status.nodes:
            if node.name not in tasks:
                tasks[node.name] = progress.add_task(visible(node.name))
            progress.update(tasks[node.name], completed=node.done_bytes, total=node.total_bytes)

    waiting.start()
    try:
        yield show
    finally:
        waiting.stop()
        progress.stop()

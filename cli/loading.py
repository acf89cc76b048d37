"""Loading a model on the cluster, with a bar for each node. Loading continues if the caller exits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from cli.asking import ask
from cli.news import News
from cli.progress import BAR_COLUMNS
from cli.visible import short_name, visible
from cluster.client import LoadStatus, NodeClient, NodeProgress, OwnNode, Wanted
from cluster.errors import DownloadError, OccupiedError, PlacementError

if TYPE_CHECKING:
    from rich.console import Console


def load(node: OwnNode, wanted: Wanted, console: Console | None = None) -> LoadStatus:
    """Load a model unless it is loaded; return the load status. Bars are drawn on `console` or on stderr.

    Asks the person before another model is replaced, and before weights are downloaded.

    Raises:
        DeclinedError: the person said no.
        MoeClusterError: the model cannot be loaded.
    """
    while True:
        try:
            return _load(node, wanted, console)
        except OccupiedError:
            serving = node.status().serving
            served = short_name(serving.model) if serving else "another model"
            question = f"The cluster serves {served}. Load {short_name(wanted.model)} in its place?"
            if not ask(question, f"{served} stays loaded"):
                raise
            wanted = replace(wanted, replace=True)
        except DownloadError as needed:
            wanted = _agreed(wanted, needed)


def _load(node: OwnNode, wanted: Wanted, console: Console | None) -> LoadStatus:
    with node_bars(console) as show:
        for status in node.load(wanted):
            show(status.nodes)
    return status


def _agreed(wanted: Wanted, needed: DownloadError) -> Wanted:
    """Return what is wanted with leave to download, if the person gives it."""
    if not ask(f"{needed}. Download it?", "nothing was downloaded"):
        raise DownloadError(f"{needed}; --yes allows it") from needed
    return replace(wanted, download=True)


async def load_when_it_fits(node: NodeClient, wanted: Wanted, news: News) -> None:
    """Load a model. If it does not fit, say what is missing and try again when another node joins."""
    while True:
        here = (await node.status()).here
        try:
            with node_bars(news.console) as show:
                async for status in node.load(wanted):
                    show(status.nodes)
            return
        except DownloadError as needed:
            wanted = await asyncio.to_thread(_agreed, wanted, needed)
            continue
        except PlacementError as error:
            news.say(str(error), "yellow")
            news.say("waiting for more nodes; Ctrl-C stops this node", "bright_black")
        await node.wait_for_another(here)
        await node.meet_others()


@contextmanager
def node_bars(
    console: Console | None, waiting_for: str = "starting the workers"
) -> Iterator[Callable[[Sequence[NodeProgress]], None]]:
    """Yield a function that draws the progress of each node; it draws nothing unless on a terminal."""
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
        yield lambda _nodes: None
        return
    tasks: dict[str, TaskID] = {}
    name, bar = TextColumn("{task.description}", markup=False), BarColumn(bar_width=BAR_COLUMNS)
    amounts = DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True)
    progress = Progress(name, bar, *amounts, console=console, transient=True)
    waiting = console.status(waiting_for)

    def show(nodes: Sequence[NodeProgress]) -> None:
        if nodes and not tasks:
            waiting.stop()
            progress.start()
        for node in nodes:
            if node.name not in tasks:
                tasks[node.name] = progress.add_task(visible(node.name))
            name = visible(node.name) + (f" from {visible(node.source)}" if node.source else "")
            progress.update(tasks[node.name], description=name, completed=node.done_bytes, total=node.total_bytes)

    waiting.start()
    try:
        yield show
    finally:
        waiting.stop()
        progress.stop()

"""status, nodes, unload, down: show the state of the cluster, unload its model, stop the node."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from datetime import date
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from cli.interrupt import Interrupt
from cli.nodes import NodeRow, cluster_table, node_rows
from cli.tables import table_console
from cli.units import duration_text, span_text
from cli.visible import visible
from cluster.client import ClusterStatus, OwnNode, ServingState, is_running
from cluster.errors import ClusterError, NoClusterError, NodeLostError
from cluster.home import Home
from cluster.node.options import NodeOptions
from mlx_moe.units import bytes_text

WATCH_S = 1.0


def show_status(as_json: bool, watch: bool) -> None:
    """Print the state of the cluster; with `watch` refresh it until Ctrl-C."""
    if watch:
        _watch(Home.default(), table_console())
        return
    with OwnNode.connect(Home.default()) as node:
        if as_json:
            print(json.dumps(to_json(node.status())))
        else:
            print_status(node.status(), table_console())


def show_nodes(as_json: bool) -> None:
    """Print the nodes."""
    with OwnNode.connect(Home.default()) as node:
        status = node.status()
    rows = node_rows(status)
    if as_json:
        print(json.dumps([row.to_json() for row in rows]))
    else:
        table_console().print(Group(cluster_table(rows), *_authority_lines(status)))


def unload() -> None:
    """Take the cluster's model away."""
    with OwnNode.connect(Home.default()) as node:
        model = node.unload("it was unloaded")
    print(f"{visible(model)} is unloaded" if model else "no model was loaded")


def down() -> None:
    """Stop this machine's node."""
    home = Home.default()
    if not is_running(home):
        raise NoClusterError("no node runs on this machine")
    with OwnNode.connect(home) as node:
        name = node.status().own.shown_name
        node.stop()
    print(f"{visible(name)} is down")


def print_status(status: ClusterStatus, console: Console) -> None:
    """Print the state of the cluster."""
    console.print(_rendered(status))


def _watch(home: Home, console: Console) -> None:
    """Refresh the display. If the node ends, wait for it. Raises NoClusterError if none runs at the start."""
    OwnNode.connect(home).close()
    with Interrupt() as interrupt, Live(console=console, auto_refresh=False) as live:
        while not interrupt.requested:
            try:
                with OwnNode.connect(home) as node:
                    while not interrupt.requested:
                        live.update(_rendered(node.status()), refresh=True)
                        interrupt.wait(WATCH_S)
            except (NoClusterError, NodeLostError) as error:
                live.update(Text(f"{error}; waiting for it", style="yellow"), refresh=True)
                interrupt.wait(WATCH_S)


def _rendered(status: ClusterStatus) -> RenderableType:
    rows = node_rows(status)
    here = [row for row in rows if row.is_here]
    offer = "nodes offer" if len(here) > 1 else "node offers"
    lines = [
        _cluster_line(status, rows[0]),
        Text(f"{len(here)} {offer} {bytes_text(sum(row.offered_bytes for row in here))}"),
        _model_line(status),
        *_progress_lines(status),
        *_spare_lines(status),
        *_api_lines(status),
        *_options_lines(),
        *(Text(f"refused: {visible(reason)}", style="yellow") for reason in status.refused),
        Text(),
    ]
    return Group(*lines, cluster_table(rows), *_authority_lines(status))


def _authority_lines(status: ClusterStatus) -> list[Text]:
    """Return which nodes can let others in, and which were removed."""
    keepers = sorted(visible(node.shown_name) for node in status.nodes if node.keeps_authority and node.is_here)
    lines = [] if status.insecure else [f"authority kept by {', '.join(keepers) or 'no node that is here'}"]
    removed = [f"{visible(node.name)} ({date.fromtimestamp(node.at_s)})" for node in status.removed]
    lines += [f"removed: {', '.join(removed)}"] if removed else []
    return [Text(line, style="bright_black") for line in lines]


def _cluster_line(status: ClusterStatus, own: NodeRow) -> Text:
    if status.insecure:
        return Text.assemble(("INSECURE", "bold red"), f": no authentication; this is {visible(own.name)}")
    return Text(f"cluster {status.cluster_id}; this is {visible(own.name)}")


def _model_line(status: ClusterStatus) -> Text:
    serving = status.serving
    if serving is None:
        return Text(
            "no model is loaded; `moe-cluster chat MODEL` or `moe-cluster up MODEL` loads one", style="bright_black"
        )
    model = visible(serving.model)
    if serving.state is ServingState.FAILED:
        return Text(f"{model} failed: {visible(serving.failure)}", style="red")
    line = f"{model} is {serving.state}, coordinated by {visible(status.name(serving.coordinator))}"
    if serving.state is ServingState.READY:
        active = status.coordinator_stats.active_requests
        line += f", answers {active} request{'s' * (active != 1)}"
        line += f", loaded in {duration_text(serving.load_s)}" if serving.load_s else ""
    return Text(line)


def _progress_lines(status: ClusterStatus) -> list[Text]:
    """Return how far each node is with loading, and where its bytes come from."""
    progress = [node.holding.progress for node in status.nodes if node.holding and node.holding.progress]
    return [
        Text(
            f"  {visible(p.name)}: {bytes_text(p.done_bytes)} of {bytes_text(p.total_bytes)}"
            + (f" from {visible(p.source)}" if p.source else ""),
            style="bright_black",
        )
        for p in progress
    ]


def _api_lines(status: ClusterStatus) -> list[Text]:
    return [Text(f"serves the HTTP APIs at {status.api_url}")] if status.api_url else []


def _spare_lines(status: ClusterStatus) -> list[Text]:
    """Return which node has a spare copy of a stage of another one, from which a loss is repaired without reading."""
    held = [(node.shown_name, node.holding) for node in status.nodes if node.holding and node.holding.spare_layers]
    return [
        Text(
            f"{visible(name)} has a spare copy of layers {span_text(h.spare_layers)}, {bytes_text(h.spare_bytes)}",
            style="bright_black",
        )
        for name, h in held
    ]


def _options_lines() -> list[Text]:
    """Return the options that are remembered for the next `up`."""
    try:
        words = NodeOptions.read(Home.default().options).words()
    except ClusterError as error:
        return [Text(visible(str(error)), style="yellow")]
    if not words:
        return []
    return [Text(f"up remembers {visible(shlex.join(words))}; up --defaults forgets it", style="bright_black")]


def to_json(status: ClusterStatus) -> dict[str, Any]:
    """Return the state of the cluster as JSON values."""
    return {
        "cluster_id": status.cluster_id,
        "insecure": status.insecure,
        "node_id": status.own.info.node_id,
        "model": _model_json(status),
        "refused": list(status.refused),
        "api_url": status.api_url,
        "removed": [asdict(node) for node in status.removed],
        "nodes": [row.to_json() for row in node_rows(status)],
    }


def _model_json(status: ClusterStatus) -> dict[str, Any] | None:
    serving, stats = status.serving, status.coordinator_stats
    if serving is None:
        return None
    return {
        "name": serving.model,
        "state": serving.state,
        "coordinator": serving.coordinator,
        "failure": serving.failure,
        "active_requests": stats.active_requests,
        "load_s": serving.load_s,
        "standby": _standby_json(status),
        "drafts": {"compared": stats.drafts_compared, "accepted": stats.drafts_accepted},
    }


def _standby_json(status: ClusterStatus) -> dict[str, Any] | None:
    for node in status.nodes:
        if (held := node.holding) and held.spare_layers:
            layers = [held.spare_layers.start, held.spare_layers.stop]
            return {"node": node.shown_name, "layers": layers, "bytes": held.spare_bytes}
    return None

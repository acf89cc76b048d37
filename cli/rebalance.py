"""rebalance: moves the cluster's model to the best placement on the nodes that are here, after showing it."""

from __future__ import annotations

from rich.console import Console

from cli.asking import ask
from cli.loading import load
from cli.tables import HeadedTable, table_console
from cli.units import rate_text, span_text, tokens_text
from cli.visible import short_name, visible
from cluster.client import ClusterStatus, OwnNode, Wanted
from cluster.home import Home
from cluster.placement import Placement, Rebalance
from mlx_moe.units import bytes_text


def rebalance(*, dry_run: bool, yes: bool) -> None:
    """Show the best placement of the cluster's model, and move the model there if the person agrees.

    Raises:
        NoClusterError: no node runs here, or no model is ready.
        DeclinedError: the person said no.
        MoeClusterError: it does not fit, or loading failed.
    """
    with OwnNode.connect(Home.default()) as node:
        found = node.rebalance(dry_run=True)
        model, console = short_name(found.former.model), table_console()
        if not found.changes:
            console.print(f"{visible(model)} is placed as well as it can be")
            return
        _print(found, node.status(), console)
        if dry_run:
            return
        if not yes and not ask(f"Move {model}?", f"{model} stays where it is"):
            console.print("nothing was moved; --yes does it")
            return
        node.rebalance(dry_run=False)
        loaded = load(node, Wanted(found.former.model))
    seconds = loaded.serving.load_s if loaded.serving else 0.0
    console.print(f"{visible(model)} is moved, in {seconds:.1f} s")


def hint(node: OwnNode) -> str:
    """Return a line that says that the served model could be placed better, "" if it could not."""
    found = node.rebalance(dry_run=True)
    if not found.is_better:
        return ""
    if found.has_more_room:
        gain = _room_text(found)
    else:
        gain = "with a spare copy of a stage" if found.has_new_standby else _speed_text(found)
    return f"the nodes that are here allow a better placement, {gain}: moe-cluster rebalance"


def _print(found: Rebalance, status: ClusterStatus, console: Console) -> None:
    table = HeadedTable("node", "holds", "then", "reads", texts=("node", "holds", "then"))
    before, after = _holdings(found.former), _holdings(found.placement)
    for node_id in dict.fromkeys([*before, *after]):
        nbytes = found.read_bytes.get(node_id, 0)
        table.add_row(
            visible(status.name(node_id)),
            before.get(node_id, ""),
            after.get(node_id, ""),
            bytes_text(nbytes) if nbytes else "",
        )
    console.print(table)
    console.print()
    console.print(f"predicted for one user: {_speed_text(found)}")
    if found.has_more_room:
        console.print(f"room: {_room_text(found)}")


def _holdings(placement: Placement) -> dict[str, str]:
    """Return what each node holds, as text, by node id."""
    held = {}
    for stage in placement.stages:
        layers = f"layer{'s' * (len(stage.layers) > 1)} {span_text(stage.layers)}"
        held[stage.node_id] = layers
        held |= {peer.node_id: f"experts of {layers}" for peer in stage.peers}
    if (spare := placement.standby) is not None:
        own = f"{held[spare.node_id]}, " if spare.node_id in held else ""
        held[spare.node_id] = f"{own}spare copy of {span_text(spare.layers)}"
    return held


def _speed_text(found: Rebalance) -> str:
    return f"{rate_text(found.former_tokens_per_s)}, then {rate_text(found.tokens_per_s)}"


def _room_text(found: Rebalance) -> str:
    def room(placement: Placement) -> str:
        return f"{placement.concurrency} x {tokens_text(placement.context_tokens)} tokens"

    return f"{room(found.former)}, then {room(found.placement)}"

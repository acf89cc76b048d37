"""Pull on a cluster: each node gets its part of a model on its disk, or some nodes the whole model."""

from __future__ import annotations

from collections.abc import Sequence

from cli.asking import ask
from cli.failures import print_line
from cli.loading import node_bars
from cli.tables import HeadedTable, table_console
from cli.visible import visible
from cluster.client import NodeProgress, OwnNode, Wanted
from mlx_moe.units import bytes_text


def pull(node: OwnNode, wanted: Wanted, nodes: Sequence[str], *, dry_run: bool, yes: bool) -> None:
    """Say what would be copied to which disk, ask, and copy it. It continues if this process ends.

    Raises:
        DeclinedError: the person said no.
        MoeClusterError: there is no such model or node, no room on a disk, or the sources do not deliver.
    """
    (needed,) = node.pull(wanted, nodes, dry_run=True)
    total = sum(progress.total_bytes for progress in needed)
    if not total:
        print(f"{visible(wanted.model)} is on the disks of all nodes that need it")
        return
    table_console().print(_table(needed))
    if dry_run:
        return
    if not yes:
        ask(f"Copy {bytes_text(total)}?", f"{wanted.model} is not copied")
    try:
        with node_bars(None, "starting the copies") as show:
            for progress in node.pull(wanted, nodes):
                show(progress)
    except KeyboardInterrupt:
        print_line("the nodes go on: moe-cluster status shows it, moe-cluster unload ends it")
        raise
    print(f"{visible(wanted.model)} is on the disks; moe-cluster up {visible(wanted.model)} loads it")


def _table(needed: Sequence[NodeProgress]) -> HeadedTable:
    table = HeadedTable("node", "gets", "free on its disk", "from", texts=("node", "from"), wrapped="from")
    for node in needed:
        table.add_row(
            visible(node.name), bytes_text(node.total_bytes), bytes_text(node.free_bytes), visible(node.source)
        )
    return table

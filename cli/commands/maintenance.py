"""Commands for when something is wrong: logs, measurements."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options as o
from cli.bench.commands import bench
from cli.failures import reported
from cli.usage import Section, within

commands = Section("Maintenance")


@commands.command(short_help="Print what a node has logged.")
def logs(
    node: Annotated[
        str | None, typer.Argument(metavar="NODE", help="Name of another node; default: this machine's.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print further lines until Ctrl-C.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", callback=within(1, 2000), help="Print the last N lines.")
    ] = 50,
    debug: o.Debug = False,
) -> None:
    """Print the last lines that a node's daemon and worker have logged, in order of time.

    Logs never contain prompts or answers. The files are in the logs directory of the node's home, at most 16 MiB.
    """
    with reported(debug):
        from cli import logs as log_lines

        log_lines.show(node, lines, follow=follow)


commands.add_typer(bench, name="bench", short_help="Measure a machine, a cluster or emulated Macs.")

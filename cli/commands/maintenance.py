"""Commands for when something is wrong: logs, measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli import options as o
from cli.bench.commands import bench
from cli.failures import reported
from cli.usage import Section, parsed_as, within

commands = Section("Maintenance")


@commands.command(short_help="Find what is wrong, and how to mend it.")
def doctor(json: o.Json = False, debug: o.Debug = False) -> None:
    """Check this machine, its network and disks, its node and the cluster; print commands that mend what is wrong.

    It changes nothing, and works without a running node. Exits with 10 if there are problems.
    """
    with reported(debug):
        from cli.doctor import doctor as examine

        examine(json)


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
    """Print the last lines that a node's daemon, worker and gateway have logged, in order of time.

    Logs never contain prompts or answers. The files are in the logs directory of the node's home, at most 24 MiB.
    """
    with reported(debug):
        from cli import logs as log_lines

        log_lines.show(node, lines, follow=follow)


@commands.command(short_help="Pack what helps to find a fault.")
def report(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="The .tar.gz to write; default: named by the time."),
    ] = None,
    debug: o.Debug = False,
) -> None:
    """Write one archive for whoever helps you: doctor, status, plan, versions, options and the ends of logs.

    No prompts, tokens or keys are in it; names of people and machines, home directories and addresses are replaced.
    """
    with reported(debug):
        from cli.report import write_report

        write_report(output)


service = typer.Typer(help="Start the node with the machine.", no_args_is_help=True)
commands.add_typer(service, name="service")

System = Annotated[
    bool, typer.Option("--system", help="On Linux: for the system, which needs root; default: for this user.")
]


@service.command(
    "install",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    short_help="Start the node with this machine, and now.",
)
def install_service(
    context: typer.Context,
    print_only: Annotated[bool, typer.Option("--print", help="Print the service's file, install nothing.")] = False,
    system: System = False,
    debug: o.Debug = False,
) -> None:
    """Start the node with this machine, and now, and again when it fails: launchd on macOS, systemd on Linux.

    All further arguments are those of up, such as --name, --memory, --peer and MODEL; they are kept.
    """
    parsed = parsed_as("up", context)
    with reported(debug):
        from cli import service as service_file

        service_file.install(context.args, parsed, system=system, print_only=print_only)


@service.command("uninstall")
def uninstall_service(system: System = False, debug: o.Debug = False) -> None:
    """Stop the node, and do not start it with this machine any more."""
    with reported(debug):
        from cli import service as service_file

        service_file.uninstall(system=system)


@service.command("status")
def show_service(system: System = False, debug: o.Debug = False) -> None:
    """Show whether the service is installed and runs."""
    with reported(debug):
        from cli import service as service_file

        service_file.status(system=system)


commands.add_typer(bench, name="bench", short_help="Measure a machine, a cluster or emulated Macs.")

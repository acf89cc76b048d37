"""moe-cluster: the command line. Its commands import their heavy modules themselves."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from cli.commands import answers, api, maintenance, models, nodes
from cli.exit_codes import ExitCode
from cli.failures import error_line, silence_stdout
from cli.usage import Commands

app = typer.Typer(
    name="moe-cluster",
    cls=Commands,
    help="Run Mixture-of-Experts models on Macs, one alone or several together.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help takes a third of the time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for section in (answers.commands, nodes.commands, models.commands, api.commands, maintenance.commands):
    app.add_typer(section)


def main() -> None:
    """Run the command line; the console's entry point."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    if os.environ.get("COLUMNS") == "0":  # 0: the width is unknown
        del os.environ["COLUMNS"]
    try:
        try:
            app(prog_name="moe-cluster")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        silence_stdout()
        sys.exit(ExitCode.BROKEN_PIPE)
    except OSError as error:  # from output outside a command: help, or the last flush
        silence_stdout()
        print(error_line(error), file=sys.stderr)
        sys.exit(ExitCode.INTERNAL)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"moe-cluster {version('moe-cluster')}")
        except PackageNotFoundError:
            print("moe-cluster (not installed)")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass

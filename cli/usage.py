"""Usage errors: reported in one line, as other failures are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

from cli.failures import reported

_UsageError: Any = typer.BadParameter.__bases__[0]
"""What typer raises for an invalid command line; it does not export the class."""

_NOT_A_NUMBER = re.compile(r"Input should be a valid (number|integer).*input_value=(.+), input_type", re.DOTALL)
"""The text of the cause of a usage error where an option takes a number."""

Number = TypeVar("Number", int, float)
Function = TypeVar("Function", bound=Callable[..., Any])


class Section(typer.Typer):
    """Commands under one heading of the help."""

    def __init__(self, heading: str) -> None:
        super().__init__()
        self._heading = heading

    def command(self, *args: Any, **options: Any) -> Callable[[Function], Function]:
        """See Typer.command."""
        return super().command(*args, rich_help_panel=self._heading, **options)

    def add_typer(self, *args: Any, **options: Any) -> None:
        """See Typer.add_typer."""
        super().add_typer(*args, rich_help_panel=self._heading, **options)


class Commands(TyperGroup):
    """The commands of moe-cluster."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the commands under the headings of their sections, in one column of names."""
        shown = [(name, command) for name, command in self.commands.items() if not command.hidden]
        width = max(len(name) for name, _ in shown)
        for heading, section in groupby(shown, lambda entry: getattr(entry[1], "rich_help_panel", "Commands")):
            limit = formatter.width - width - 6
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), each.get_short_help_str(limit)) for name, each in section])

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Parse the options before the command; report a usage error in one line."""
        with _refused():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Parse the rest and run the command; report a usage error in one line."""
        with _refused():
            return super().invoke(ctx)


def within(low: float, high: float = math.inf) -> Callable[[Number | None], Number | None]:
    """Return a callback for an option that checks that its value is in a range."""

    def check(value: Number | None) -> Number | None:
        if value is not None and not low <= value <= high:
            span = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
            raise typer.BadParameter(f"must be {span}, got {value:g}")
        return value

    return check


def parsed_as(command: str, context: typer.Context) -> dict[str, Any]:
    """Return the values of a command's further arguments, read as those of another command; it does not run.

    Exits with code 2 for a usage error.
    """
    root = context.find_root()
    with root.command.commands[command].make_context(command, list(context.args), parent=root) as parsed:  # type: ignore[attr-defined]
        return dict(parsed.params)


@contextmanager
def _refused() -> Iterator[None]:
    """Report a usage error in one line, with exit code 2. A usage error that prints the help is raised unchanged."""
    try:
        yield
    except _UsageError as error:
        message = error.format_message()
        if found := _NOT_A_NUMBER.search(str(error.__cause__)):
            kind = "number" if found[1] == "number" else "whole number"
            message = message.replace(error.message, f"must be a {kind}, got {found[2]}")
        message = " ".join(message.split())
        if message.startswith("Usage:"):
            raise
        command = error.ctx.command_path if error.ctx else "moe-cluster"
        from mlx_moe.errors import InvalidRequestError

        with reported(debug=False):
            line = f"{message[0].lower()}{message[1:].removesuffix('.')}; {command} -h shows how it is used"
            raise InvalidRequestError(line) from error

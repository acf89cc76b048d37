"""Usage errors: reported in one line, as other failures are."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

from cli.failures import reported

_UsageError: Any = typer.BadParameter.__bases__[0]
"""What typer raises for an invalid command line; it does not export the class."""

_NOT_A_NUMBER = re.compile(r"Input should be a valid (number|integer).*input_value=(.+), input_type", re.DOTALL)
"""The text of the cause of a usage error where an option takes a number."""

Number = TypeVar("Number", int, float)


class Commands(TyperGroup):
    """The commands of moe-cluster."""

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

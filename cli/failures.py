"""Failures: prints each as one line on stderr and exits with a stable code."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from cli.asking import DeclinedError
from cli.exit_codes import ExitCode, exit_code_of
from cli.terminal import columns
from mlx_moe.errors import MoeClusterError


@contextmanager
def reported(debug: bool) -> Iterator[None]:
    """Run a command; print its failure and exit with its code. `debug` adds the traceback.

    Raises:
        typer.Exit: the command failed.
    """
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    for package in ("cli", "cluster", "mlx_moe"):
        logging.getLogger(package).setLevel(logging.DEBUG if debug else logging.ERROR)
    try:
        yield
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except KeyboardInterrupt:
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    except BrokenPipeError:
        silence_stdout()
        raise typer.Exit(ExitCode.BROKEN_PIPE) from None
    except DeclinedError as error:
        print_line(str(error))
        raise typer.Exit(exit_code_of(error)) from None
    except Exception as error:
        if debug:
            traceback.print_exc()
        print_line(error_line(error))
        raise typer.Exit(exit_code_of(error)) from error


def error_line(error: Exception) -> str:
    """Return a failure as one line."""
    message = " ".join(str(error).split())
    if isinstance(error, MoeClusterError):
        return f"error: {message}"
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"error: {where}{error.strerror} (--debug shows where)"
    return f"error: {type(error).__name__}: {message} (--debug shows where)"


def print_line(line: str) -> None:
    """Print a line on stderr, wrapped between words on a terminal."""
    if sys.stderr.isatty():
        line = textwrap.fill(line, columns(sys.stderr), break_long_words=False, break_on_hyphens=False)
    print(line, file=sys.stderr)


def silence_stdout() -> None:
    """Redirect stdout to the null device: its reader is gone, and the interpreter's last flush would fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""A node in the background: this process starts a daemon and waits until it is up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import typer

from cluster.client import OwnNode
from cluster.errors import ClusterError, NoClusterError
from cluster.home import VARIABLE, Home
from cluster.node.options import NodeOptions

UP_S = 60.0
"""Time limit for a node to start; it may first measure its machine."""

POLL_S = 0.02


_running: list[subprocess.Popen[bytes]] = []
"""Nodes that nobody has waited for. Python warns about a Popen that is freed while its process runs."""

_UP = (sys.executable, "-P", "-m", "cli", "up", "--silent")


class BackgroundNode:
    """Starts `moe-cluster up` detached: it has a session of its own, so Ctrl-C does not reach it.

    `flags` are further options of `up`. A `token` is written to its standard input. With `leash` it ends with this
    process.
    """

    def __init__(
        self, home: Home, options: NodeOptions, flags: Sequence[str] = (), *, token: str | None = None, leash: bool
    ) -> None:
        self.home = home
        self._errors: Path = home.logs / "up.log"
        flags = (*flags, *(["--join", "-"] if token else []), *(["--leashed"] if leash else []))
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [*_UP, *options.words(), *flags],
                env={**os.environ, VARIABLE: str(home.path)},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        _running.append(self._process)
        assert self._process.stdin is not None
        if token:
            with suppress(BrokenPipeError):  # it has ended and printed why
                self._process.stdin.write(f"{token}\n".encode())
                self._process.stdin.flush()
        if not leash:
            self._process.stdin.close()

    def connect(self, check: Callable[[], None] = lambda: None) -> OwnNode:
        """Wait until the node is up; return a connection to it. An exception from `check` ends the node.

        Raises:
            typer.Exit: the node ended with an error, which was printed.
            ClusterError: the node is not up after UP_S.
        """
        deadline = time.monotonic() + UP_S
        try:
            while time.monotonic() < deadline:
                check()
                try:
                    return OwnNode.connect(self.home)
                except NoClusterError:
                    if (code := self._process.poll()) is not None:
                        raise self._failure(code) from None
                time.sleep(POLL_S)
            raise ClusterError(f"the node is not up after {UP_S:g} s; see {self.home.logs}")
        except BaseException:  # do not leave an unreported node running
            self.stop()
            self.wait()
            raise

    def _failure(self, code: int) -> Exception:
        said = self._errors.read_text(errors="replace")
        if not said:
            return ClusterError(
                f"the node ended with code {code} and could not write why to {self._errors}: is that disk full?"
            )
        sys.stderr.write(said)
        return typer.Exit(code)

    def stop(self) -> None:
        """Ask the node to end; `wait` waits for it."""
        self._process.terminate()

    def wait(self) -> None:
        """Wait until the node has ended; kill it after UP_S."""
        try:
            self._process.wait(UP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        finally:
            if self._process in _running:
                _running.remove(self._process)
            if self._process.stdin is not None:
                self._process.stdin.close()

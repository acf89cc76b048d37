"""Ctrl-C while a node starts: one line, exit code 130 and nothing left behind, whatever it was about to do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from cluster.daemon.admission import is_member
from cluster.home import VARIABLE, Home
from tests.cluster.running import ROOT
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.slow

_WARNINGS = ("-W", "error", "-W", "ignore:subprocess:ResourceWarning")
"""A node in the background is still running when its command ends."""

INTERRUPTED_AT = """
import os, signal, sys
from importlib import import_module
from unittest.mock import patch

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

class Finder:
    def find_spec(self, name, *_):
        if name == where:
            sys.meta_path.remove(self)
            interrupt()

where = sys.argv.pop(1)
module, _, function = where.partition(":")
if function:
    owner = import_module(module)
    *path, name = function.split(".")
    for part in path:
        owner = getattr(owner, part)
    called = getattr(owner, name)

    def interrupted(*arguments, **options):
        interrupt()
        return called(*arguments, **options)

    patch.object(owner, name, interrupted).start()
else:
    sys.meta_path.insert(0, Finder())

from cli.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("where", "flags"),
    [
        ("typer", ["--new"]),
        ("cli.up", ["--new"]),
        ("grpc", ["--new"]),
        ("cluster.daemon.admission:look", []),
        ("cluster.daemon.daemon:hardware", ["--new"]),
        ("asyncio:create_subprocess_exec", ["--new"]),
        ("asyncio.subprocess:Process.communicate", ["--new"]),
        ("cluster.daemon.daemon:enrolment.serve", ["--new"]),
        ("cluster.daemon.daemon:time.time_ns", ["--new"]),
        ("cli.background:BackgroundNode.connect", ["--new", "--detach"]),
    ],
)
def test_ctrl_c_while_a_node_starts_is_one_line_and_leaves_nothing(
    tmp_path: Path, where: str, flags: list[str]
) -> None:
    home = Home(tmp_path / "home")
    ended = interrupted_up(home, where, flags)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")
    assert not is_member(home)
    assert not home.authority.exists()
    assert not home.daemon.exists()
    assert not list(processes_in(home))


def test_a_node_that_is_up_in_the_background_is_told_of_all_the_same(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    try:
        ended = interrupted_up(home, "cli.news:News.own", ["--new", "--detach"])
        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.strip().endswith("moe-cluster status shows it, moe-cluster down ends it")
    finally:
        for process in processes_in(home):
            process.terminate()
            process.wait(PATIENCE_S)


def interrupted_up(home: Home, where: str, flags: list[str]) -> subprocess.CompletedProcess[str]:
    """Run `up`, with Ctrl-C at a moment."""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), VARIABLE: str(home.path), "HOME": str(home.path)}
    return subprocess.run(
        [sys.executable, *_WARNINGS, "-c", INTERRUPTED_AT, where, "up", *flags, "--host", "127.0.0.1", "--port=0"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def processes_in(home: Home) -> Iterator[psutil.Process]:
    """Return the processes that have a home in their environment."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(VARIABLE) == str(home.path):
                yield process

"""The lock says whether a daemon lives: neither a file that it left behind nor a pid that lives again does."""

import json
import os
from pathlib import Path

import pytest

from cluster.client import OwnNode
from cluster.daemon.daemon import only_daemon_of
from cluster.errors import ClusterError, HeldError, NoClusterError
from cluster.home import Home
from cluster.lock import held, is_held


def stale(home: Home) -> None:
    """Leave what a daemon leaves behind in a power cut, with the pid of a process that lives."""
    home.lock.touch()
    home.daemon.write_text(
        json.dumps({"pid": os.getpid(), "address": "127.0.0.1:1", "node_id": "a" * 16, "insecure": True})
    )


def test_a_lock_is_held_by_one_until_it_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    with held(path, 0):
        assert is_held(path)
        with pytest.raises(HeldError, match=str(path)), held(path, 0):
            pass
    assert not is_held(path)
    with held(path, 0):
        pass


@pytest.mark.parametrize("path", [Path("/proc/none/lock"), Path("/dev/null/lock")])
def test_a_place_that_cannot_be_locked_is_named(path: Path) -> None:
    with pytest.raises(ClusterError, match=str(path)), held(path, 0):
        pass


def test_what_a_daemon_left_behind_is_no_daemon_though_its_pid_lives(tmp_path: Path) -> None:
    home = Home(tmp_path)
    stale(home)
    with pytest.raises(NoClusterError, match="moe-cluster up starts one"):
        OwnNode.connect(home)
    with only_daemon_of(home):
        assert not home.daemon.exists()  # until the new one is up
        with pytest.raises(NoClusterError, match="starting"):
            OwnNode.connect(home)
        with pytest.raises(ClusterError, match="runs on this machine already"), only_daemon_of(home):
            pass


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null", "[" * 100_000, '{"pid": 1, "port": 2}'])
def test_a_daemons_file_that_cannot_be_read_is_one_error(tmp_path: Path, content: str) -> None:
    home = Home(tmp_path)
    with held(home.lock, 0):
        home.daemon.write_text(content)
        with pytest.raises(ClusterError, match=r"daemon\.json cannot be read"):
            OwnNode.connect(home)

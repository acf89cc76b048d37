"""Hosts: machines for tests that are network namespaces on a bridge. Nothing leaves this host."""

import subprocess
import uuid
from contextlib import ExitStack

import pytest

from tests.patience import PATIENCE_S


class Hosts:
    """Network namespaces: each a machine of its own to what runs in it. What is in `stack` ends before they go."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self._prefix = f"moe{uuid.uuid4().hex[:6]}"

    def add(self, name: str) -> str:
        """Make a namespace with nothing but loopback; it is deleted at the end."""
        namespace = f"{self._prefix}{name}"
        made = subprocess.run(["ip", "netns", "add", namespace], capture_output=True, text=True)
        if made.returncode:
            pytest.skip(f"network namespaces are not permitted here: {made.stderr.strip()}")
        self.stack.callback(subprocess.run, ["ip", "netns", "del", namespace], check=True)
        _ip("-n", namespace, "link", "set", "lo", "up")
        return namespace

    def connect(self, n_hosts: int) -> list[str]:
        """Make namespaces that are joined by a bridge, which is in one more."""
        switch = self.add("s")
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        _ip("-n", switch, "link", "set", "bridge", "up")
        hosts = [self.add(str(n)) for n in range(1, n_hosts + 1)]
        for n, host in enumerate(hosts, 1):
            _ip("-n", switch, "link", "add", f"port{n}", "type", "veth", "peer", "name", "eth0", "netns", host)
            _ip("-n", switch, "link", "set", f"port{n}", "master", "bridge", "up")
            _ip("-n", host, "addr", "add", f"10.77.0.{n}/24", "dev", "eth0")
            _ip("-n", host, "link", "set", "eth0", "up")
        return hosts


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=PATIENCE_S)

"""Hosts: machines for tests that are network namespaces on a bridge. Nothing leaves this host."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

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
        ip(namespace, "link", "set", "lo", "up")
        return namespace

    def connect(self, n_hosts: int) -> list[str]:
        """Make namespaces that are joined by a bridge: eth0 of host n has the address 10.77.0.n."""
        hosts = [self.add(str(n)) for n in range(1, n_hosts + 1)]
        self.join(hosts, "eth0")
        for n, host in enumerate(hosts, 1):
            ip(host, "addr", "add", f"10.77.0.{n}/24", "dev", "eth0")
            ip(host, "link", "set", "eth0", "up")
        return hosts

    def join(self, hosts: list[str], interface: str) -> str:
        """Give each host an interface, still down, at `port<n>` of a bridge in one more namespace; return that."""
        switch = self.add(interface)
        ip(switch, "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
        ip(switch, "link", "set", "bridge", "up")
        for n, host in enumerate(hosts, 1):
            ip(switch, "link", "add", f"port{n}", "type", "veth", "peer", "name", interface, "netns", host)
            ip(switch, "link", "set", f"port{n}", "master", "bridge", "up")
        return switch


@contextmanager
def permitted_hosts() -> Iterator[Hosts]:
    """Yield hosts; skip the test without the program `ip`."""
    with ExitStack() as stack:
        try:
            subprocess.run(["ip", "-V"], capture_output=True, check=True)
        except OSError as exc:
            pytest.skip(f"network namespaces need the program ip: {exc}")
        yield Hosts(stack)


def ip(host: str, *arguments: str) -> None:
    """Run the program `ip` in a namespace."""
    subprocess.run(["ip", "-n", host, *arguments], check=True, capture_output=True, timeout=PATIENCE_S)

"""Listening: where servers bind for `--host`, where this machine's programs connect, which addresses are announced.

The three differ: for example a node binds 0.0.0.0, its programs connect to 127.0.0.1, and it announces 10.0.0.7.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass

from cluster.errors import ClusterError
from cluster.membership import ports
from cluster.membership.address import (
    MAX_ADDRESSES,
    is_ip,
    is_loopback,
    is_own,
    join,
    own_ips,
    resolve,
    scoped_ips,
    unmapped,
)
from cluster.membership.ports import ALL
from mlx_moe.errors import InvalidRequestError

LOOPBACK = "127.0.0.1"
ALL_IPV4 = "0.0.0.0"

TRIES = 20
"""Attempts to find one port that is free on several hosts."""


@dataclass(frozen=True, slots=True)
class Listening:
    """The IP addresses to bind; only `ALL` or `ALL_IPV4` for all addresses that this machine has, now and later."""

    hosts: tuple[str, ...]

    @classmethod
    def at(cls, host: str) -> Listening:
        """Return the Listening for a host that a person typed; "" means all addresses.

        Raises:
            InvalidRequestError: it is not a host, or not an address of this machine.
        """
        host = host.strip()
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        if host in ("", ALL):
            return cls((ALL if socket.has_dualstack_ipv6() else ALL_IPV4,))
        if host == ALL_IPV4:
            return cls((ALL_IPV4,))
        found = _resolved(host)
        if own := tuple(ip for ip in found if is_own(ip)):
            return cls(own[:MAX_ADDRESSES])
        named = "" if is_ip(host) else f" ({', '.join(found)})"
        raise InvalidRequestError(
            f"--host {host}{named} is not an address of this machine, which has {', '.join(own_ips())}; "
            f"--host {ALL} listens at all of them"
        )

    def announced(self) -> tuple[str, ...]:
        """Return the IP addresses at which others may reach this machine now, best first; else loopback."""
        if self.hosts == (ALL,):
            return own_ips()
        if self.hosts == (ALL_IPV4,):
            return tuple(ip for ip in own_ips() if ":" not in ip) or (LOOPBACK,)
        unscoped = dict.fromkeys(host.partition("%")[0] for host in self.hosts)
        return tuple(host for host in unscoped if not is_loopback(join(host, 0))) or tuple(unscoped)

    @property
    def is_private(self) -> bool:
        """Whether no other machine can ever reach it, because it binds only loopback."""
        return all(is_loopback(join(host, 0)) for host in self.hosts)

    def with_loopback(self, port: int) -> Listening:
        """Return a copy that also binds loopback for this machine's own programs, unless it does or the port is taken.

        Loopback still works when an interface loses its address.
        """
        if self.hosts[0] in (ALL, ALL_IPV4) or self.is_private or ports.refusal(LOOPBACK, port) is not None:
            return self
        return Listening((*self.hosts, LOOPBACK))

    def now(self) -> Listening:
        """Return a copy without hosts that this machine no longer has; unchanged if it has none of them."""
        return Listening(tuple(host for host in self.hosts if is_own(host)) or self.hosts)

    @property
    def own_host(self) -> str:
        """The IP address to which this machine's own programs connect."""
        if self.hosts[0] in (ALL, ALL_IPV4) or LOOPBACK in self.hosts:
            return LOOPBACK
        return self.hosts[0]

    def bind(self, add_port: Callable[[str], int], port: int = 0) -> int:
        """Call a server's `add_port(address)` for every host with one port, a free one for 0; return the port.

        Raises:
            ClusterError: the port is taken.
        """
        port = port or self.free_port()
        self.require_free(port)
        for host in self.hosts:
            add_port(join(host, port))
        return port

    def require_free(self, *wanted: int) -> None:
        """Raise ClusterError if a port cannot be opened; the message names the process that holds it, if known."""
        for port in wanted:
            for host in self.hosts:
                ports.require_free(host, port)

    def is_free(self, port: int) -> bool:
        """Whether a port can be opened on all hosts."""
        return all(ports.refusal(host, port) is None for host in self.hosts)

    def free_port(self, *, neighbours: int = 0) -> int:
        """Return a port that is free on all hosts together with the `neighbours` ports after it.

        Raises:
            ClusterError: none was found in TRIES attempts.
        """
        self.require_free(0)
        for _ in range(TRIES):
            port = ports.any_free(self.hosts[0])
            wanted = range(port, port + 1 + neighbours)
            if wanted.stop <= 1 << 16 and all(map(self.is_free, wanted)):
                return port
        raise ClusterError(f"no port is free on {', '.join(self.hosts)}")


def _resolved(host: str) -> list[str]:
    """Return the IP addresses of a host, link-local ones with their scope. Raises InvalidRequestError."""
    try:
        ips = resolve(host)
    except (OSError, UnicodeError) as exc:
        port = ", without a port (that is --port)" if ":" in host else ""
        raise InvalidRequestError(
            f"--host {host[:80]!r} is neither an address nor a known host name ({exc}): give one of this "
            f"machine{port}, which has {', '.join(own_ips())}; --host {ALL} listens at all of them"
        ) from exc
    scoped = {ip.partition("%")[0]: ip for ip in scoped_ips()}
    return [ip if "%" in ip else scoped.get(ip, ip) for ip in map(unmapped, ips)]

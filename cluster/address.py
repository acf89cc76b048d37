"""Address: where a node listens, "host:port", an IPv6 host in brackets; and which of them this machine has."""

from __future__ import annotations

import ipaddress
import re
import socket

import psutil

MAX_ADDRESSES = 16
"""Of one node."""

_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]{2,45}\]|[0-9A-Za-z._-]{1,253}):(\d{1,5})")


def is_address(text: str) -> bool:
    """Whether it is a host and a port."""
    match = _ADDRESS.fullmatch(text)
    return match is not None and 0 < int(match.group(1)) < 2**16


def join(host: str, port: int) -> str:
    """Return the address of a port on a host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """Return host and port of what `is_address`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def own_ips() -> tuple[str, ...]:
    """Return the IP addresses of this machine that others may reach, IPv4 first.

    Loopback is left out unless there is nothing else, and so are IPv6's link-local ones, which mean nothing elsewhere.
    """
    running = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    ips = [
        ipaddress.ip_address(address.address)
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if name in running and address.family in (socket.AF_INET, socket.AF_INET6)
    ]
    ips = [ip for ip in ips if ip.version == 4 or not ip.is_link_local]
    outward = [ip for ip in ips if not ip.is_loopback] or ips
    return tuple(str(ip) for ip in sorted(outward, key=lambda ip: ip.version))[:MAX_ADDRESSES]

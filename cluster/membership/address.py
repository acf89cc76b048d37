"""Address: "host:port" at which a node listens, with an IPv6 host in brackets; and the addresses of this machine.

An IPv6 link-local host may have a scope ("fe80::1%en0"), which is valid only on this machine.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from urllib.parse import unquote

import psutil

MAX_ADDRESSES = 16
"""Most addresses of one node."""

_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]{2,45}(?:%[0-9A-Za-z._-]{1,15})?\]|[0-9A-Za-z._-]{1,253}):(\d{1,5})")

_PEER_TO_PEER = ("awdl", "llw")
"""Prefixes of Apple's device-to-device interfaces, which are always up and reach no node."""


def is_address(text: str) -> bool:
    """Whether a text is a host and a port."""
    match = _ADDRESS.fullmatch(text)
    return match is not None and 0 < int(match.group(1)) < 2**16


def join(host: str, port: int) -> str:
    """Return the address of a port on a host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """Return the host, without brackets, and the port of an address for which `is_address` is true."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def is_loopback(address: str) -> bool:
    """Whether an address is a loopback address or "localhost"."""
    host, _ = split(address)
    return host == "localhost" or (is_ip(host) and ipaddress.ip_address(host).is_loopback)


def is_ip(host: str) -> bool:
    """Whether a host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_scoped(ip: str) -> bool:
    """Whether an IP address needs a scope, because it is an IPv6 link-local address."""
    address = ipaddress.ip_address(ip)
    return address.version == 6 and address.is_link_local


def unmapped(ip: str) -> str:
    """Return the IPv4 address inside an IPv4-mapped IPv6 address (::ffff:10.0.0.7); any other address unchanged."""
    address = ipaddress.ip_address(ip)
    return str(address.ipv4_mapped or ip) if isinstance(address, ipaddress.IPv6Address) else ip


def resolve(host: str) -> list[str]:
    """Return the IP addresses of a host name, or of an IP address itself, by the system's resolver. Raises OSError."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    return list(dict.fromkeys(socket.getnameinfo(where, numeric)[0] for *_, where in found))


def of_caller(peer: str, port: int) -> str:
    """Return the address of `port` on the machine that called, from gRPC's `context.peer()`; "" if it has no IP."""
    host = unquote(unquote(peer)).partition(":")[2].rpartition(":")[0].strip("[]")
    return join(host, port) if is_ip(host) else ""


def own_ips() -> tuple[str, ...]:
    """Return the IP addresses at which other machines may reach this one now, IPv4 first.

    If there are none, IPv6 link-local addresses without their scope; if there are none either, loopback.
    """
    ips = [ipaddress.ip_address(ip) for ip in scoped_ips()]
    outward = [ip for ip in ips if not ip.is_loopback]
    routed = [ip for ip in outward if not is_scoped(str(ip))]
    best = sorted(routed or outward or ips, key=lambda ip: ip.version)
    unscoped = dict.fromkeys(str(ip).partition("%")[0] for ip in best)
    return tuple(unscoped)[:MAX_ADDRESSES]


def scoped_ips() -> tuple[str, ...]:
    """Return all IP addresses at which programs of this machine can listen now, link-local ones with their scope."""
    interfaces = {name: stats for name, stats in psutil.net_if_stats().items() if stats.isup}
    return tuple(
        address.address
        for name, addresses in psutil.net_if_addrs().items()
        for address in addresses
        if name in interfaces
        and address.family in (socket.AF_INET, socket.AF_INET6)
        and ("%" not in address.address or _leads_to_neighbours(name, interfaces[name].flags))
        and is_own(address.address)
    )


def _leads_to_neighbours(name: str, flags: str) -> bool:
    return "pointopoint" not in flags and not name.startswith(_PEER_TO_PEER)


def is_own(ip: str) -> bool:
    """Whether programs of this machine can listen at an IP address.

    False while the system still checks a new IPv6 address for duplicates. False for multicast and broadcast addresses,
    which can be bound but to which nobody connects.
    """
    if ipaddress.ip_address(ip).is_multicast or ip == "255.255.255.255":
        return False
    family, _, _, _, where = socket.getaddrinfo(ip, 0, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
    try:
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            trial.bind(where)
    except OSError:
        return False
    return True

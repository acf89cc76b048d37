"""Ports: whether a port can be opened on a host, and which process holds it if not. Knows nothing about gRPC."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from pathlib import Path

import psutil

from cluster.errors import ClusterError
from cluster.membership.address import join

ALL = "::"
"""The host that stands for all addresses of this machine, IPv4 included."""


def refusal(host: str, port: int) -> OSError | None:
    """Return why a server cannot listen at an IP address and port, None if it can. Port 0 is always free."""
    with socket.socket(_family(host)) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == ALL:
            trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            trial.bind(_where(host, port))
            trial.listen()
        except OSError as error:
            return error
    return None


def require_free(host: str, port: int) -> None:
    """Raise ClusterError if a server cannot listen; the message names the process that holds the port, if known."""
    error = refusal(host, port)
    if error is None:
        return
    where = join(host, port)
    if error.errno == errno.EADDRINUSE:
        raise ClusterError(f"cannot listen on {where}: {_holder(port)}; end it, or take free ports with --port 0")
    if error.errno == errno.EACCES:
        raise ClusterError(f"cannot listen on {where}: ports below 1024 are for root; choose others with --port")
    raise ClusterError(f"cannot listen on {where}: {os.strerror(error.errno or 0)}; choose an address with --host")


def any_free(host: str) -> int:
    """Return a port that is free on a host."""
    with socket.socket(_family(host)) as trial:
        trial.bind(_where(host, 0))
        return int(trial.getsockname()[1])


def _holder(port: int) -> str:
    """Return which process listens at a port, for messages. Without root the system tells only the user's own."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
                    is_ours = any(Path(word).name in ("moe-cluster", "cli") for word in process.cmdline()[:4])
                    name = "another node" if is_ours else process.name()
                    return f"{name} (process {process.pid}) holds port {port}"
    return f"another program holds port {port}"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _where(host: str, port: int) -> tuple[object, ...]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4]

"""GatewayOptions: where the gateway listens, and who may use it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

DEFAULT_PORT = 8080


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """Where the gateway listens, and who may use it.

    Attributes:
        port: 0 is a free one.
        allowed_hosts: further names of this machine that requests may have in their Host header.
        origins: web pages of these origins may use it from a browser.
        certificate, key: files, for TLS; both or none.
        exact: answers do not depend on which prompts are in the KV cache, and fewer of these are used.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    allowed_hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    certificate: str = ""
    key: str = ""
    exact: bool = False

    @property
    def needs_key(self) -> bool:
        """Whether every request needs an API key: all addresses but this machine's own can be reached by others."""
        return not (self.host == "localhost" or _is_loopback(self.host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

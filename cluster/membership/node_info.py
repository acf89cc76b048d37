"""NodeInfo: what a node tells others about itself. Values from others are checked here, once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cluster.errors import ClusterError
from cluster.membership.address import MAX_ADDRESSES, is_address, is_ip, split
from cluster.membership.hardware import Hardware

MAX_NAME_BYTES = 63

_NODE_ID = re.compile(r"[0-9a-f]{16}")
_VERSION = re.compile(r"\d{1,6}(\.[0-9A-Za-z+-]{1,20}){0,5}")


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node: its identity, its addresses ("host:port", best first), and what it offers.

    `incarnation` differs at each start of a node, so that a restart is distinguished from a delay. `revision` is raised
    when the addresses change, so that a delayed message does not restore old ones. `offered_bytes` is the part of its
    hardware's memory budget that the node gives to models.

    Raises:
        ClusterError: a value is invalid.
    """

    node_id: str
    name: str
    addresses: tuple[str, ...]
    version: str
    incarnation: int
    offered_bytes: int
    hardware: Hardware
    revision: int = 0

    def __post_init__(self) -> None:
        valid = {
            "node_id": is_node_id(self.node_id),
            "name": is_name(self.name),
            "addresses": are_addresses(self.addresses),
            "version": is_version(self.version),
            "incarnation": 0 <= self.incarnation < 2**63,
            "offered_bytes": 0 <= self.offered_bytes <= self.hardware.memory_bytes,
            "revision": 0 <= self.revision < 2**32,
        }
        for field, is_valid in valid.items():
            if not is_valid:
                raise ClusterError(f"a node with {field}={str(getattr(self, field))[:80]!r}, which cannot be")

    @property
    def major_version(self) -> str:
        """The first number of the version; nodes work together only if it is equal."""
        return self.version.partition(".")[0]


def is_node_id(text: str) -> bool:
    """Whether a text is a node id: 16 hexadecimal digits."""
    return _NODE_ID.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a text can be printed on a terminal and stored in a TXT record."""
    return text.isprintable() and bool(text.strip()) and len(text.encode(errors="replace")) <= MAX_NAME_BYTES


def is_version(text: str) -> bool:
    """Whether a text is a version such as 0.1.0."""
    return _VERSION.fullmatch(text) is not None


def are_addresses(addresses: tuple[str, ...]) -> bool:
    """Whether there are 1 to MAX_ADDRESSES addresses, each an IP address and a port.

    Names only a person may give: looking one up takes a thread, for as long as the network likes.
    """
    return 0 < len(addresses) <= MAX_ADDRESSES and all(is_address(at) and is_ip(split(at)[0]) for at in addresses)

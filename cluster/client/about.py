"""About: what a node tells about itself when a person looks for a fault."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cluster.wire import node_pb2 as pb


@dataclass(frozen=True, slots=True)
class NodeAbout:
    """The versions of a node's software, and how far its clock is ahead of this node's, give or take an error."""

    node_id: str
    versions: Mapping[str, str]
    ahead_s: float
    ahead_error_s: float


def from_message(message: pb.AboutNode) -> NodeAbout:
    """Return the value of a message."""
    return NodeAbout(message.node_id, dict(message.versions), message.ahead_s, message.ahead_error_s)

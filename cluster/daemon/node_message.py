"""Node messages: what a node says of itself, to and from the wire. Parsed here, once."""

from __future__ import annotations

import json

from cluster.errors import ClusterError
from cluster.hardware import Hardware
from cluster.node_info import NodeInfo
from cluster.wire import node_pb2 as pb


def to_message(info: NodeInfo) -> pb.NodeInfo:
    """Return a node's info as it is sent."""
    return pb.NodeInfo(
        node_id=info.node_id,
        name=info.name,
        addresses=info.addresses,
        version=info.version,
        incarnation=info.incarnation,
        offered_bytes=info.offered_bytes,
        hardware=json.dumps(info.hardware.to_json()),
        revision=info.revision,
    )


def from_message(message: pb.NodeInfo) -> NodeInfo:
    """Return what another node says of itself. Raises ClusterError for values that cannot be."""
    try:
        hardware = json.loads(message.hardware)
    except (ValueError, RecursionError) as exc:
        raise ClusterError(f"node {message.node_id[:40]!r} describes its hardware, but not in JSON") from exc
    return NodeInfo(
        node_id=message.node_id,
        name=message.name,
        addresses=tuple(message.addresses),
        version=message.version,
        incarnation=message.incarnation,
        offered_bytes=message.offered_bytes,
        hardware=Hardware.from_json(hardware),
        revision=message.revision,
    )

"""Node messages: what a node says of itself and of its links, to and from the wire. Parsed here, once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from cluster.membership.hardware import Hardware
from cluster.membership.membership import LinkSpeed
from cluster.membership.node_info import NodeInfo, is_node_id
from cluster.wire import node_pb2 as pb

MAX_LINKS = 256
MAX_LATENCY_S = 60.0
RATES = (1.0, 1e15)
"""Bytes a second that a link may have; other numbers were not measured."""


def to_message(info: NodeInfo) -> pb.NodeInfo:
    """Return a node's info as it is sent."""
    return pb.NodeInfo(
        node_id=info.node_id,
        name=info.name,
        addresses=info.addresses,
        version=info.version,
        incarnation=info.incarnation,
        offered_bytes=info.offered_bytes,
        hardware=pb.Hardware(**info.hardware.to_json()),
        revision=info.revision,
    )


def from_message(message: pb.NodeInfo) -> NodeInfo:
    """Return what another node says of itself. Raises ClusterError for values that cannot be."""
    hardware = {field.name: getattr(message.hardware, field.name) for field in dataclasses.fields(Hardware)}
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


def links_to_messages(links: Mapping[str, LinkSpeed]) -> list[pb.MeasuredLink]:
    """Return the links of a node as they are sent."""
    return [
        pb.MeasuredLink(node_id=node_id, latency_s=link.latency_s, bytes_per_s=link.bytes_per_s)
        for node_id, link in links.items()
    ]


def links_from_messages(messages: Iterable[pb.MeasuredLink]) -> dict[str, LinkSpeed]:
    """Return the links that another node has measured, without those that cannot be."""
    slowest, fastest = RATES
    return {
        m.node_id: LinkSpeed(m.latency_s, m.bytes_per_s)
        for m in list(messages)[:MAX_LINKS]
        if is_node_id(m.node_id) and 0 < m.latency_s <= MAX_LATENCY_S and slowest <= m.bytes_per_s <= fastest
    }

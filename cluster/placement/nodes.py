"""Nodes as they measured themselves and their links, as capacities and links for the solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.membership.membership import LinkSpeed
from cluster.membership.node_info import NodeInfo
from cluster.placement.capacity import Link, Links, NodeCapacity
from cluster.placement.chips import measured


def capacity(info: NodeInfo, name: str) -> NodeCapacity:
    """Return what a node offers."""
    whole = measured(info.node_id, name, info.hardware)
    if info.offered_bytes >= whole.memory_bytes:
        return replace(whole, memory_bytes=info.offered_bytes)
    withheld = whole.memory_bytes - info.offered_bytes
    return replace(whole, memory_bytes=info.offered_bytes, withheld_bytes=withheld, raised_memory_bytes=0)


def links_from(own: str, told: Mapping[str, Mapping[str, LinkSpeed]]) -> Links:
    """Return the links that nodes told of; a way that only the other end has measured is taken to be like that.

    Two nodes that have not measured theirs yet are taken to have one like the slower of this node's links to them.
    """

    def between(a: str, b: str) -> LinkSpeed | None:
        found = told[a].get(b) or told[b].get(a)
        ours = [told[own][node_id] for node_id in (a, b) if node_id in told[own]]
        return found or (max(ours, key=lambda link: link.latency_s) if len(ours) == 2 else None)

    ways = {(a, b): between(a, b) for a in told for b in told if a != b}
    return Links(measured={way: Link(link.latency_s, link.bytes_per_s) for way, link in ways.items() if link})

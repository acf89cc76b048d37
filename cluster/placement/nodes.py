"""Nodes: converts what nodes measured of themselves and their links to capacities and links for the solver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from cluster.membership.membership import NO_LINK, LinkSpeed
from cluster.membership.node_info import NodeInfo
from cluster.placement.capacity import Link, Links, NodeCapacity
from cluster.placement.chips import measured


def capacity(info: NodeInfo, name: str) -> NodeCapacity:
    """Return the capacity of a node that is shown as `name`."""
    whole = measured(info.node_id, name, info.hardware)
    if info.offered_bytes >= whole.memory_bytes:
        return replace(whole, memory_bytes=info.offered_bytes)
    withheld = whole.memory_bytes - info.offered_bytes
    return replace(whole, memory_bytes=info.offered_bytes, withheld_bytes=withheld, raised_memory_bytes=0)


def links_from(own: str, told: Mapping[str, Mapping[str, LinkSpeed]]) -> Links:
    """Return the links from measurements `told` by node id, then by the id of the other end.

    If only one end has measured a link, both directions get its speed. If neither has, the link is assumed to be as
    slow as the slower of the two links from the node `own` to the two ends. There is none where one end has lost it.
    """

    def between(a: str, b: str) -> LinkSpeed | None:
        if NO_LINK in (told[a].get(b), told[b].get(a)):
            return NO_LINK
        found = told[a].get(b) or told[b].get(a)
        ours = [told[own][node_id] for node_id in (a, b) if node_id in told[own]]
        return found or (max(ours, key=lambda link: link.latency_s) if len(ours) == 2 else None)

    ways = {(a, b): between(a, b) for a in told for b in told if a != b}
    measured = {way: Link(link.latency_s, link.bytes_per_s) for way, link in ways.items() if link}
    return Links(measured=measured, lost=frozenset(way for way, link in ways.items() if link == NO_LINK))

"""Greeting: what a node tells another one each second, checked once where it arrives.

Everything in it is said by one member about itself, and may be a lie: what it says of others is a hint where they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cluster.errors import ClusterError
from cluster.membership import ballot_message
from cluster.membership.address import MAX_ADDRESSES, is_address, is_ip, is_loopback, split
from cluster.membership.ballot import Ballot
from cluster.membership.contacts import Target
from cluster.membership.membership import MAX_MEMBERS, LinkSpeed
from cluster.membership.node_info import NodeInfo, is_node_id
from cluster.membership.node_message import from_message, links_from_messages
from cluster.printable import MAX_ERROR, MAX_REASON, is_printable, printable
from cluster.wire import node_pb2 as pb

MAX_TEXT = 1024
"""Characters of a model's name, which may be a path, and of other texts of one line."""

MAX_BYTES = 1 << 60
MAX_PORT = (1 << 16) - 1


@dataclass(frozen=True, slots=True)
class Greeting:
    """A greeting, or the answer to one; `refusal` is why the greeted node refuses the other one, "" if it does not.

    `holding` and `serving` are as they were sent: their numbers and texts are possible, not true. `removed` counts
    where the authority has signed it, whoever sends it.
    """

    info: NodeInfo
    refusal: str = ""
    known: tuple[Target, ...] = ()
    holding: pb.Holding = field(default_factory=pb.Holding)
    serving: pb.Serving = field(default_factory=pb.Serving)
    links: Mapping[str, LinkSpeed] = field(default_factory=dict)
    free_disk_bytes: int = 0
    ballot: Ballot = field(default_factory=Ballot)
    is_placing: bool = False
    removed: tuple[pb.Removal, ...] = ()
    keeps_authority: bool = False


def parsed(message: pb.Greeting, at: str) -> Greeting:
    """Return a greeting of the node at an address. Raises ClusterError for values that cannot be."""
    info = from_message(message.info)
    if len(message.known) > MAX_MEMBERS:
        raise ClusterError(f"{info.name} knows {len(message.known)} nodes, but a cluster has at most {MAX_MEMBERS + 1}")
    return Greeting(
        info=info,
        refusal=printable(message.refusal, MAX_REASON),
        known=tuple(_targets(message.known, info.node_id, near=is_loopback(at) if at else False)),
        holding=_holding(message.holding, info.name),
        serving=_serving(message.serving, info.name),
        links=links_from_messages(message.links),
        free_disk_bytes=min(message.free_disk_bytes, MAX_BYTES),
        ballot=ballot_message.from_message(message.ballot),
        is_placing=message.is_placing,
        removed=tuple(message.removed),
        keeps_authority=message.keeps_authority,
    )


def _targets(known: Iterable[pb.Acquaintance], node_id: str, *, near: bool) -> Iterable[Target]:
    """Yield where other nodes may be. Only a node of this machine knows of loopback addresses here."""
    for other in known:
        addresses = tuple(at for at in other.addresses if _is_reachable(at, near=near))[:MAX_ADDRESSES]
        if addresses and is_node_id(other.node_id) and other.node_id != node_id:
            yield Target(addresses, other.node_id)


def _is_reachable(at: str, *, near: bool) -> bool:
    return is_address(at) and is_ip(split(at)[0]) and (near or not is_loopback(at))


def _holding(said: pb.Holding, name: str) -> pb.Holding:
    _require(
        name,
        model=is_printable(said.model, MAX_TEXT),
        layers=said.first_layer <= said.end_layer,
        weights=said.weights_bytes <= MAX_BYTES,
        source=is_printable(said.progress.source, MAX_TEXT),
    )
    return said


def _serving(said: pb.Serving, name: str) -> pb.Serving:
    node_ids = (*said.node_ids, *([said.coordinator] if said.coordinator else []))
    _require(
        name,
        model=is_printable(said.model, MAX_TEXT),
        nodes=len(said.node_ids) <= MAX_MEMBERS + 1 and all(map(is_node_id, node_ids)),
        port=said.port <= MAX_PORT,
        draft=is_printable(said.draft, MAX_TEXT),
        mode=is_printable(said.mode, MAX_TEXT),
        load_s=math.isfinite(said.load_s) and said.load_s >= 0,
    )
    said.failure = printable(said.failure, MAX_ERROR)
    return said


def _require(name: str, **fields: bool) -> None:
    for field_name, is_possible in fields.items():
        if not is_possible:
            raise ClusterError(f"{name} greets with {field_name} that cannot be")

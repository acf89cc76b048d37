"""Belief: whose word counts on what the cluster serves. Pure: knows nothing of greetings and calls.

A node may say anything of itself. That it has placed the cluster's model counts if more than half of the nodes that are
here have granted it the epoch, or half of them with this one; that the model is ready, if each node that is said to
hold a part, and is here, says so too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.membership.ballot import Ballot
from cluster.wire import node_pb2 as pb


@dataclass(frozen=True, slots=True)
class Said:
    """What a node that is here says of itself: what it has placed, what it holds, and what it has granted."""

    serving: pb.Serving = field(default_factory=pb.Serving)
    holding: pb.Holding = field(default_factory=pb.Holding)
    ballot: Ballot = field(default_factory=Ballot)


def believed(own: str, said: Mapping[str, Said]) -> tuple[str, pb.Serving]:
    """Return the node that has placed the cluster's model, and the model's state, ("", empty) if there is none.

    `said` is by node id, with this node, `own`, which believes itself. If more than one counts, the newest does.
    """
    offers = {
        node_id: _confirmed(one.serving, said)
        for node_id, one in said.items()
        if one.serving.epoch and (node_id == own or _is_granted(node_id, one.serving.epoch, own, said))
    }
    return max(offers.items(), key=lambda offer: (offer[1].epoch, offer[0]), default=("", pb.Serving()))


def _is_granted(node_id: str, epoch: int, own: str, said: Mapping[str, Said]) -> bool:
    grants = {voter for voter, one in said.items() if one.ballot.has_granted(node_id, epoch)}
    return 2 * len(grants) + (own in grants) > len(said)


def _confirmed(serving: pb.Serving, said: Mapping[str, Said]) -> pb.Serving:
    """Return a model's state as ready only if no node that is said to hold a part says that it does not."""
    holdings = [said[node_id].holding for node_id in serving.node_ids if node_id in said]
    if serving.state != pb.Serving.READY or all(held.epoch and held.model == serving.model for held in holdings):
        return serving
    loading = pb.Serving()
    loading.CopyFrom(serving)
    loading.state = pb.Serving.LOADING
    return loading

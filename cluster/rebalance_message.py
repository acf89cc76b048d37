"""Rebalance message: another placement of the served model, as a value and as a message."""

from __future__ import annotations

import json

from cluster.placement import Placement, Rebalance
from cluster.wire import node_pb2 as pb


def to_message(found: Rebalance, epoch: int) -> pb.RebalanceReply:
    """Return a message that `from_message` reads; `epoch` is that of the new placement, 0 if nothing was moved."""
    return pb.RebalanceReply(
        former=json.dumps(found.former.to_json()),
        placement=json.dumps(found.placement.to_json()),
        former_tokens_per_s=found.former_tokens_per_s,
        tokens_per_s=found.tokens_per_s,
        read_bytes=found.read_bytes,
        epoch=epoch,
    )


def from_message(message: pb.RebalanceReply) -> Rebalance:
    """Return the rebalance of a message. Raises InvalidRequestError for an invalid placement."""
    return Rebalance(
        Placement.parse(message.former),
        Placement.parse(message.placement),
        message.former_tokens_per_s,
        message.tokens_per_s,
        dict(message.read_bytes),
    )

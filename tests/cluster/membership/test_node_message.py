"""Node messages: what a node says of itself arrives, and what no node says is refused."""

import math
from typing import Any

import pytest

from cluster.errors import ClusterError
from cluster.membership.node_message import from_message, to_message
from cluster.wire import node_pb2 as pb
from tests.cluster.membership.test_membership import info


def test_a_nodes_info_arrives_as_it_was() -> None:
    assert from_message(to_message(info(3))) == info(3)


@pytest.mark.parametrize(
    "changes",
    [
        {"node_id": "../../etc"},
        {"name": "\x1b]0;title\x07"},
        {"addresses": ["nowhere"]},
        {"addresses": []},
        {"version": "one"},
        {"hardware": {}},
        {"hardware": {"chip": "\x1b]0;title\x07"}},
        {"hardware": {"bandwidth_gbps": math.nan}},
        {"hardware": {"memory_bytes": 2**64 - 1}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_no_node_says_is_refused(changes: dict[str, Any]) -> None:
    message = to_message(info(1))
    for name, value in changes.items():
        if isinstance(value, list):
            del getattr(message, name)[:]
            getattr(message, name).extend(value)
        elif isinstance(value, dict):
            whole = {**info(1).hardware.to_json(), **value} if value else {}
            message.hardware.CopyFrom(pb.Hardware(**whole))
        else:
            setattr(message, name, value)
    with pytest.raises(ClusterError):
        from_message(message)

"""Greeting: what a member says of itself is possible, or the greeting is refused; what it says of others is a hint."""

import math
from collections.abc import Callable

import pytest

from cluster.errors import ClusterError
from cluster.membership.greeting import parsed
from cluster.membership.membership import MAX_MEMBERS
from cluster.membership.node_message import to_message
from cluster.wire import node_pb2 as pb
from tests.cluster.membership.test_membership import info

NEAR, FAR = "127.0.0.1:7000", "10.0.0.1:7000"


def greeting() -> pb.Greeting:
    return pb.Greeting(
        info=to_message(info(1)),
        holding=pb.Holding(model="demo", epoch=3, end_layer=4),
        serving=pb.Serving(model="demo", epoch=3, coordinator=info(1).node_id, node_ids=[info(1).node_id]),
    )


def test_a_greeting_arrives_as_it_was() -> None:
    said = greeting()
    found = parsed(said, FAR)
    assert (found.info, found.holding, found.serving) == (info(1), said.holding, said.serving)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.known.extend(pb.Acquaintance(node_id=f"{n:016x}") for n in range(MAX_MEMBERS + 1)),
        lambda g: g.holding.MergeFrom(pb.Holding(model="\x1b[2J")),
        lambda g: g.holding.MergeFrom(pb.Holding(first_layer=9)),
        lambda g: g.holding.MergeFrom(pb.Holding(weights_bytes=2**64 - 1)),
        lambda g: g.holding.progress.MergeFrom(pb.Holding().progress.__class__(source="\x07")),
        lambda g: g.serving.MergeFrom(pb.Serving(model="m" * 2000)),
        lambda g: g.serving.MergeFrom(pb.Serving(coordinator="me")),
        lambda g: g.serving.MergeFrom(pb.Serving(node_ids=[info(1).node_id] * 100)),
        lambda g: g.serving.MergeFrom(pb.Serving(load_s=math.nan)),
        lambda g: g.serving.MergeFrom(pb.Serving(port=2**31)),
    ],
)
def test_what_cannot_be_is_refused(change: Callable[[pb.Greeting], None]) -> None:
    said = greeting()
    change(said)
    with pytest.raises(ClusterError):
        parsed(said, FAR)


def test_a_hint_has_few_addresses_no_names_and_loopback_only_from_this_machine() -> None:
    said, node_id = greeting(), info(2).node_id
    addresses = ["slow.example:7000", "127.0.0.1:22", *(f"10.0.0.{n}:7000" for n in range(1, 40))]
    said.known.extend([pb.Acquaintance(node_id=node_id, addresses=addresses), pb.Acquaintance(node_id="x")])
    (far,) = parsed(said, FAR).known
    assert far.addresses == tuple(addresses[2:18])
    (near,) = parsed(said, NEAR).known
    assert near.addresses == tuple(addresses[1:17])


def test_texts_for_people_cannot_control_a_terminal() -> None:
    said = greeting()
    said.refusal, said.serving.failure = "no\x1b[31m", "gone\x1b]0;title\x07\nnext line"
    found = parsed(said, FAR)
    assert (found.refusal, found.serving.failure) == ("no?[31m", "gone?]0;title?\nnext line")

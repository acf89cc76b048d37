"""Greeter: whose answer counts, and which of a node's addresses is used from then on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster.daemon import greeter
from cluster.daemon.channels import Channels
from cluster.daemon.greeter import ECHO_BYTES, Greeter, link_speed
from cluster.daemon.state import NodeState
from cluster.membership.contacts import Target
from cluster.membership.membership import Hinted
from cluster.membership.node_info import NodeInfo
from cluster.membership.node_message import to_message
from cluster.trust import SERVER_OPTIONS, Authority, Insecure, MutualTLS, NodeKey
from cluster.wire import node_pb2 as pb
from cluster.wire import node_pb2_grpc
from tests.cluster.membership.test_membership import info
from tests.patience import PATIENCE_S


class Answering(node_pb2_grpc.NodeServicer):
    """A node that answers greetings, and counts them."""

    def __init__(self, info: NodeInfo) -> None:
        self.info = info
        self.address = ""
        self.n_greetings = 0

    async def Greet(  # noqa: N802
        self, _request: pb.Greeting, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.Greeting:
        """Answer in kind."""
        self.n_greetings += 1
        return pb.Greeting(info=to_message(self.info))


@asynccontextmanager
async def greeting(*there: Answering) -> AsyncIterator[NodeState]:
    """Run nodes, and a greeter that is told of them as addresses of node 1."""
    state = NodeState(info(0), lambda _: None)
    channels = Channels(Insecure(state.own.node_id))
    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as stack:
        for node in there:
            server = grpc.aio.server(options=SERVER_OPTIONS)
            node_pb2_grpc.add_NodeServicer_to_server(node, server)
            node.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            stack.push_async_callback(server.stop, None)
        stack.push_async_callback(channels.close)
        state.apply(Hinted(Target(tuple(node.address for node in there), info(1).node_id)))
        running = asyncio.create_task(Greeter(state, channels).run())
        stack.callback(running.cancel)
        yield state


async def until_reached(state: NodeState) -> str:
    while not (at := state.reached_at(info(1).node_id)):
        await asyncio.sleep(0.01)
    return at


@pytest.mark.parametrize("wrong", [info(0), info(2)], ids=["this node", "another node"])
def test_an_address_that_other_machines_have_as_well_does_not_stand_for_the_node(wrong: NodeInfo) -> None:
    async def scenario() -> None:
        other, wanted = Answering(wrong), Answering(info(1))
        async with greeting(other, wanted) as state:
            assert await until_reached(state) == wanted.address
            async with asyncio.timeout(PATIENCE_S):
                while not other.n_greetings:
                    await asyncio.sleep(0.01)
            assert list(state.membership.members) == [info(1).node_id]

    asyncio.run(scenario())


def test_the_address_that_answered_last_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeter, "HEAD_START_S", PATIENCE_S)

    async def scenario() -> None:
        first, second = Answering(info(1)), Answering(info(1))
        async with greeting(first, second) as state:
            at = await until_reached(state)
            used, other = (first, second) if at == first.address else (second, first)
            while used.n_greetings < 3:
                await asyncio.sleep(0.01)
            assert other.n_greetings <= 1
            assert state.reached_at(info(1).node_id) == at

    asyncio.run(scenario())


def test_who_answers_at_a_typed_address_is_believed_only_under_the_name_in_its_certificate(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path / "authority")

    def certified(name: str) -> MutualTLS:
        key = NodeKey.open(tmp_path / name)
        return MutualTLS(key.adopt(authority.certify(key.private_key.public_key()), authority.certificate))

    async def scenario() -> None:
        liar, state = Answering(info(1)), NodeState(info(0), lambda _: None)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        node_pb2_grpc.add_NodeServicer_to_server(liar, server)
        at = f"127.0.0.1:{certified('liar').add_port(server, '127.0.0.1:0')}"
        await server.start()
        channels = Channels(certified("own"))
        state.apply(Hinted(Target((at,)), typed=True))
        running = asyncio.create_task(Greeter(state, channels).run())
        async with asyncio.timeout(PATIENCE_S):
            while not state.membership.contacts.by_target[Target((at,))].failure:
                await asyncio.sleep(0.01)
        assert liar.n_greetings == 1
        assert not state.membership.members
        running.cancel()
        await channels.close()
        await server.stop(None)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("empty_s", "full_s", "rate_s"), [(0.001, 0.011, 0.010), (0.010, 0.011, 0.0055), (0.012, 0.011, 0.0055)]
)
def test_a_link_is_not_faster_than_it_was_seen_to_be(empty_s: float, full_s: float, rate_s: float) -> None:
    speed = link_speed(empty_s, full_s)
    assert (speed.latency_s, speed.bytes_per_s) == pytest.approx((empty_s / 2, ECHO_BYTES / rate_s))

"""Callers: every call that a server offers has a rule, and what a rule refuses is not begun."""

import asyncio
from typing import Any

import grpc
import pytest

from cluster.daemon import callers as of_daemon
from cluster.daemon.greeter import ECHO_METHOD
from cluster.daemon.state import NodeState
from cluster.placement import ExpertPeer, Placement, StagePlacement
from cluster.trust import SERVER_OPTIONS, Insecure
from cluster.trust.call_rules import CallRules, Rule
from cluster.weights.weights_service import READ_METHOD
from cluster.wire import coordinator_pb2, node_pb2, node_pb2_grpc, worker_pb2
from cluster.worker import callers as of_worker
from cluster.worker.messages import EXPERTS_METHOD, FRAMES_METHOD
from cluster.worker.role import Role
from tests.cluster.membership.test_membership import info
from tests.patience import PATIENCE_S

A, B, C, D = (letter * 16 for letter in "abcd")
STAGES = (
    StagePlacement(A, range(1)),
    StagePlacement(B, range(1), {}, (ExpertPeer(D, {}),)),
    StagePlacement(C, range(1)),
)
PLACEMENT = Placement("demo", "", STAGES, 1, 1, 1, {})


class Secure(Insecure):
    """Knows the nodes, which it is told, as certificates would."""

    insecure = False


SECURE = Secure(A)


def methods_of(*files: Any) -> set[str]:
    services = [service for file in files for service in file.DESCRIPTOR.services_by_name.values()]
    services = [service for service in services if service.name != "Control"]  # it has a socket of its own
    return {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}


def test_every_call_has_a_rule() -> None:
    rules = of_daemon.rules(NodeState(info(0), lambda _: None))
    assert rules.keys() == methods_of(node_pb2) | {ECHO_METHOD, READ_METHOD}
    rules = of_worker.rules(Role.of(PLACEMENT, B), SECURE)
    assert rules.keys() == methods_of(worker_pb2, coordinator_pb2) | {FRAMES_METHOD, EXPERTS_METHOD}


@pytest.mark.parametrize(
    ("node", "method", "allowed"),
    [
        (A, FRAMES_METHOD, {C}),
        (B, FRAMES_METHOD, {A}),
        (C, FRAMES_METHOD, {B}),
        (C, of_worker.CANCEL, {A}),
        (A, of_worker.NOTE_MEMORY, {D}),
        (A, f"{of_worker.COORDINATOR}Answer", {A, B, C, D}),
    ],
)
def test_a_worker_hears_each_call_from_one_role(node: str, method: str, allowed: set[str]) -> None:
    rule = of_worker.rules(Role.of(PLACEMENT, node), SECURE)[method]
    assert {caller for caller in (A, B, C, D) if not rule.refusal(caller)} == allowed


class Waiting(node_pb2_grpc.NodeServicer):
    """Answers a Leave when it is allowed to."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.may_end = asyncio.Event()

    async def Leave(  # noqa: N802
        self, _request: node_pb2.Farewell, _context: grpc.aio.ServicerContext[Any, Any]
    ) -> node_pb2.FarewellHeard:
        self.begun.release()
        await self.may_end.wait()
        return node_pb2.FarewellHeard()


def test_a_node_that_waits_for_as_many_calls_as_it_may_gets_no_further_one_and_others_do() -> None:
    async def scenario() -> None:
        rules = {f"{of_daemon.NODE}Leave": Rule(lambda _: "", 2)}
        server = grpc.aio.server(interceptors=[CallRules(Insecure(A), rules)], options=SERVER_OPTIONS)
        waiting = Waiting()
        node_pb2_grpc.add_NodeServicer_to_server(waiting, server)
        target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        async with asyncio.timeout(PATIENCE_S), Insecure(B).aio_channel(target, A) as b:
            stub = node_pb2_grpc.NodeStub(b)
            calls = [stub.Leave(node_pb2.Farewell()) for _ in range(2)]
            for _ in calls:
                await waiting.begun.acquire()
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Leave(node_pb2.Farewell())
            assert refused.value.code() is grpc.StatusCode.ABORTED
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Greet(node_pb2.Greeting())  # it has no rule
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
            async with Insecure(C).aio_channel(target, A) as c:
                calls.append(node_pb2_grpc.NodeStub(c).Leave(node_pb2.Farewell()))
                await waiting.begun.acquire()
                waiting.may_end.set()
                await asyncio.gather(*calls)
            await stub.Leave(node_pb2.Farewell())
        await server.stop(None)

    asyncio.run(scenario())

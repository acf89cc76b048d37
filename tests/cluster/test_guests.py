"""Guests at a running cluster: what a node with a certificate of the cluster, and calls of its own, cannot do."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import grpc
import psutil
import pytest

from cluster.client import OwnNode
from cluster.membership.address import MAX_ADDRESSES
from cluster.membership.node_info import NodeInfo
from cluster.membership.node_message import to_message
from cluster.trust import Authority, MutualTLS, NodeIdentity, NodeKey
from cluster.weights.weights_service import READ_METHOD
from cluster.wire import coordinator_pb2, coordinator_pb2_grpc, node_pb2_grpc, worker_pb2, worker_pb2_grpc
from cluster.wire import node_pb2 as pb
from tests.cluster.running import Cluster, RunningNode, answer, coordinator_stub, running_cluster
from tests.cluster.test_losses import request
from tests.cluster.test_strangers import worker_address
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.slow

MAX_FILES = 300
"""Files that a daemon may open more because of one guest: eight made-up nodes at 16 addresses, twice."""

DENIED = grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    """Run three nodes. The third one has no part of the model."""
    with running_cluster(tmp_path_factory.mktemp("guests"), 3, measured_hardware) as running:
        running.load("demo", running.place("demo", (2, 4)))
        yield running


@pytest.fixture
def certificate(cluster: Cluster, tmp_path: Path) -> NodeIdentity:
    """Return a certificate of the cluster without a node."""
    authority, key = Authority.load(cluster.nodes[0].home.authority), NodeKey.open(tmp_path)
    return key.adopt(authority.certify(key.private_key.public_key()), authority.certificate)


@pytest.fixture
def blackhole() -> Iterator[int]:
    """Listen on all addresses of this machine and say nothing; return the port."""
    with socket.create_server(("0.0.0.0", 0), backlog=4096) as listening:
        yield int(listening.getsockname()[1])


def identity_of(node: RunningNode) -> NodeIdentity:
    return NodeIdentity.load(node.home.identity)


@contextmanager
def channel(guest: NodeIdentity, node: RunningNode, address: str = "") -> Iterator[grpc.Channel]:
    with MutualTLS(guest).channel(address or node.address, node.node_id) as opened:
        yield opened


def code_of(call: Callable[..., Any], asked: object) -> grpc.StatusCode:
    """Make a call; return how it ends."""
    try:
        reply = call(asked, timeout=PATIENCE_S)
        return ended(reply) if isinstance(reply, grpc.Call) else grpc.StatusCode.OK
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code


def ended(call: Any) -> grpc.StatusCode:
    """Read a stream; return how it ends."""
    with suppress(grpc.RpcError):
        list(call)
    code: grpc.StatusCode = call.code()
    return code


def test_a_certificate_without_a_node_is_answered_no_call(cluster: Cluster, certificate: NodeIdentity) -> None:
    node = cluster.nodes[0]
    commands = iter([worker_pb2.WorkerCommand()])
    with channel(certificate, node) as opened:
        stub = node_pb2_grpc.NodeStub(opened)
        assert code_of(stub.Inspect, pb.WantedModel(model="demo")) is DENIED
        assert code_of(stub.Unload, pb.UnloadRequest(reason="mine")) is DENIED
        assert code_of(stub.Deploy, pb.DeployRequest()) is DENIED
        assert code_of(stub.RunWorker, commands) is DENIED
        assert code_of(stub.Outline, pb.OutlineRequest()) is DENIED
        assert code_of(stub.Fetch, pb.AdoptRequest()) is DENIED
        assert code_of(opened.unary_stream(READ_METHOD), b"") is DENIED
    assert cluster.model is not None
    assert len(answer(cluster.model, request())) == 8


def acquaintances(numbers: range, port: int) -> list[pb.Acquaintance]:
    """Return made-up nodes at as many addresses as a node may have."""
    hosts = {n: f"127.{1 + n // 250}.{1 + n % 250}" for n in numbers}
    ends = range(1, MAX_ADDRESSES + 1)
    return [
        pb.Acquaintance(node_id=f"{n:016x}", addresses=[f"{host}.{end}:{port}" for end in ends])
        for n, host in hosts.items()
    ]


def test_made_up_acquaintances_open_few_files_and_push_nobody_out(
    cluster: Cluster, certificate: NodeIdentity, blackhole: int
) -> None:
    node = cluster.nodes[0]
    process = psutil.Process(node.process.pid)
    own = replace(cluster.own.status().own.info, node_id=certificate.node_id, name="guest")
    own = replace(own, addresses=(f"127.0.0.1:{blackhole}",))
    before, most = process.num_fds(), 0
    with channel(certificate, node) as opened:
        stub = node_pb2_grpc.NodeStub(opened)
        crowd = pb.Greeting(info=to_message(own), known=acquaintances(range(250), blackhole))
        assert code_of(stub.Greet, crowd) is grpc.StatusCode.ABORTED
        for n in range(40):
            known = acquaintances(range(64 * n, 64 * (n + 1)), blackhole)
            stub.Greet(pb.Greeting(info=to_message(own), known=known), timeout=PATIENCE_S)
            most = max(most, process.num_fds())
    ends_at = time.monotonic() + 3.0
    while time.monotonic() < ends_at:
        most = max(most, process.num_fds())
        time.sleep(0.05)
    assert most - before < MAX_FILES
    assert cluster.present() == {node.address for node in cluster.nodes}
    assert cluster.model is not None
    assert len(answer(cluster.model, request())) == 8
    until(lambda: process.num_fds() - before < MAX_FILES // 4)


class Impostor(node_pb2_grpc.NodeServicer):
    """A member that says that it serves the model, under an epoch of its own."""

    def __init__(self, certificate: NodeIdentity, like: NodeInfo, epoch: int) -> None:
        self.server = grpc.server(ThreadPoolExecutor(4))
        node_pb2_grpc.add_NodeServicer_to_server(self, self.server)
        port, node_id = MutualTLS(certificate).add_port(self.server, "127.0.0.1:0"), certificate.node_id
        self.term = pb.Term(epoch=epoch, owner=node_id, electorate=[node_id])
        self.ballot = pb.Ballot(later=[self.term], granted=self.term)
        serving = pb.Serving(model="demo", epoch=epoch, state=pb.Serving.READY, coordinator=node_id, port=port)
        serving.node_ids.append(node_id)
        self.greeting = pb.Greeting(
            info=to_message(replace(like, node_id=node_id, name="guest", addresses=(f"127.0.0.1:{port}",))),
            ballot=self.ballot,
            holding=pb.Holding(model="demo", epoch=epoch, coordinates=True),
            serving=serving,
        )

    def Greet(self, _request: pb.Greeting, _context: grpc.ServicerContext) -> pb.Greeting:  # noqa: N802
        """Lie."""
        return self.greeting


def served_to(node: RunningNode) -> tuple[str, int] | None:
    with OwnNode.connect(node.home) as own:
        serving = own.status().serving
        return None if serving is None else (serving.coordinator, serving.epoch)


def test_an_impostor_that_says_to_serve_the_model_is_believed_by_nobody_and_stops_nobody(
    cluster: Cluster, certificate: NodeIdentity
) -> None:
    before = served_to(cluster.nodes[0])
    assert before is not None
    until(lambda: {served_to(node) for node in cluster.nodes} == {before})
    impostor = Impostor(certificate, cluster.own.status().own.info, before[1] + 1000)
    impostor.server.start()
    with ExitStack() as stack:
        stack.callback(impostor.server.stop, None)
        opened = [stack.enter_context(channel(certificate, node)) for node in cluster.nodes]
        stubs = [node_pb2_grpc.NodeStub(one) for one in opened]

        def is_present() -> bool:
            for stub in stubs:
                stub.Greet(impostor.greeting, timeout=PATIENCE_S)
            return len(cluster.present()) == 4

        until(is_present)
        for stub in stubs:
            assert stub.Grant(pb.GrantRequest(term=impostor.term), timeout=PATIENCE_S).refusal
        assert {served_to(node) for node in cluster.nodes} == {before}
        for stub in stubs:
            stub.Leave(pb.Farewell(ballot=impostor.ballot), timeout=PATIENCE_S)
        until(is_present)
        assert {served_to(node) for node in cluster.nodes} == {before}
        cluster.unload()
        until(lambda: {served_to(node) for node in cluster.nodes} == {None} and is_present())
    cluster.load("demo", cluster.place("demo", (2, 4)))
    until(lambda: {served_to(node) for node in cluster.nodes} == {served_to(cluster.nodes[0])})


def test_only_the_coordinator_cancels_frames_and_a_timeline_names_no_sequence(cluster: Cluster) -> None:
    _, stage, guest = cluster.nodes
    assert cluster.model is not None
    writing = cluster.model.new_conversation().answer(request(max_tokens=64))
    next(writing)
    with coordinator_stub(cluster) as asked:
        spans = [span for told in asked.Timeline(coordinator_pb2.TimelineRequest()) for span in told.spans]
    with channel(identity_of(guest), stage, worker_address(stage)) as opened:
        stub = worker_pb2_grpc.StageStub(opened)
        for sequence_id in {span.sequence_id for span in spans}:
            cancel = worker_pb2.CancelRequest(sequence_id=sequence_id, serial=2**63)
            assert code_of(stub.Cancel, cancel) is DENIED
    with channel(identity_of(cluster.nodes[0]), stage, worker_address(stage)) as opened:
        stub = worker_pb2_grpc.StageStub(opened)
        for sequence_id in {span.sequence_id for span in spans}:  # not even with its certificate: it has other ids
            stub.Cancel(worker_pb2.CancelRequest(sequence_id=sequence_id, serial=2**63), timeout=PATIENCE_S)
    assert len(list(writing)) == 63


def test_a_node_cannot_close_or_go_on_with_anothers_conversation(cluster: Cluster) -> None:
    first, _, guest = cluster.nodes
    conversation_id = b"c" * 16
    asked = coordinator_pb2.AnswerRequest(conversation_id=conversation_id, input_ids=range(90, 150), max_tokens=2)

    named = coordinator_pb2.ConversationId(conversation_id=conversation_id)
    with coordinator_stub(cluster) as own, ExitStack() as stack:
        address = cluster.own.status().coordinator_address
        stranger = coordinator_pb2_grpc.CoordinatorStub(
            stack.enter_context(channel(identity_of(guest), first, address))
        )
        list(own.Answer(asked, timeout=PATIENCE_S))
        stranger.CloseConversation(named, timeout=PATIENCE_S)
        *_, last = own.Answer(asked, timeout=PATIENCE_S)
        assert last.token.stats.cached_tokens > 0
        own.CloseConversation(named, timeout=PATIENCE_S)
        *_, last = own.Answer(asked, timeout=PATIENCE_S)
        assert last.token.stats.cached_tokens == 0
        own.CloseConversation(named, timeout=PATIENCE_S)


def test_one_worker_runs_on_a_node_and_only_for_whom_the_node_has_granted_its_epoch(cluster: Cluster) -> None:
    leader, other, free = cluster.nodes
    with channel(identity_of(leader), free) as opened:
        content = node_pb2_grpc.NodeStub(opened).Inspect(pb.WantedModel(model="demo"), timeout=PATIENCE_S).content_hash

    plan = cluster.place("demo", (2, 4)).to_json() | {"content_hash": content}
    ids = (leader.node_id, free.node_id)
    stages = [stage | {"node_id": node_id} for stage, node_id in zip(plan["stages"], ids, strict=True)]
    placement = json.dumps(plan | {"stages": stages})
    serving = cluster.own.status().serving
    assert serving is not None

    def run(stub: node_pb2_grpc.NodeStub, epoch: int) -> Any:
        load = worker_pb2.LoadShard(model="demo", epoch=epoch, placement=placement)
        return stub.RunWorker(commands(worker_pb2.WorkerCommand(load=load)), timeout=PATIENCE_S)

    ends_now = Event()

    def commands(load: worker_pb2.WorkerCommand) -> Iterator[worker_pb2.WorkerCommand]:
        yield load
        ends_now.wait(PATIENCE_S)
        yield worker_pb2.WorkerCommand(stop=worker_pb2.StopWorker(reason="the test is done with it"))

    with channel(identity_of(other), free) as opened:
        assert ended(run(node_pb2_grpc.NodeStub(opened), serving.epoch)) is DENIED
    with channel(identity_of(leader), free) as opened, ThreadPoolExecutor(6) as threads:
        stub = node_pb2_grpc.NodeStub(opened)
        assert ended(run(stub, serving.epoch + 100)) is DENIED
        assert ended(run(stub, 0)) is DENIED
        calls = [run(stub, serving.epoch) for _ in range(6)]
        ends = [threads.submit(ended, call) for call in calls]
        until(lambda: sum(end.done() for end in ends) == 5)
        assert len(free.workers()) == 1
        ends_now.set()
        until(lambda: not free.workers())


def test_a_node_without_a_part_unloads_a_model_only_while_it_answers_nobody(cluster: Cluster) -> None:
    first, _, guest = cluster.nodes
    assert cluster.model is not None
    writing = cluster.model.new_conversation().answer(request(max_tokens=None))
    next(writing)
    until(lambda: cluster.own.status().coordinator_stats.active_requests)
    with channel(identity_of(guest), first) as opened:
        stub = node_pb2_grpc.NodeStub(opened)
        assert code_of(stub.Unload, pb.UnloadRequest()) is DENIED
        deploy = pb.DeployRequest(placement=json.dumps(cluster.place("demo", (6,)).to_json()), epoch=7)
        assert code_of(stub.Deploy, deploy) is grpc.StatusCode.ABORTED
        next(writing)
        writing.close()
        until(lambda: not cluster.own.status().coordinator_stats.active_requests)
        assert stub.Unload(pb.UnloadRequest(), timeout=PATIENCE_S).model == "demo"
    cluster.load("demo", cluster.place("demo", (2, 4)))

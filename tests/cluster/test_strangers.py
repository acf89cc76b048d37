"""Strangers at a running cluster, and nodes of it that go beyond what is theirs."""

import asyncio
import math
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import psutil
import pytest

from cluster.client import OwnNode
from cluster.membership.node_message import to_message
from cluster.rpc_errors import translated
from cluster.trust import Authority, Insecure, JoinToken, MutualTLS, NodeIdentity, NodeKey, join
from cluster.trust.enrolment import enrolment_port
from cluster.wire import coordinator_pb2, node_pb2_grpc
from cluster.wire import node_pb2 as pb
from cluster.worker.messages import EXPERTS_METHOD, FRAMES_METHOD, Kind, Message
from mlx_moe.errors import InvalidRequestError
from tests.cluster.running import Cluster, RunningNode, answer, coordinator_stub, running_cluster
from tests.cluster.test_losses import request
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.slow

MAX_GROWTH_BYTES = 100 << 20

HALF_OPEN = 500
"""Connections without a handshake to each of three ports of a node."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, measured_hardware: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("strangers"), 3, measured_hardware) as running:
        running.load("demo", running.place("demo", (2, 4)))
        yield running


def foreign_identity(directory: Path) -> NodeIdentity:
    authority = Authority.create(directory / "authority")
    key = NodeKey.open(directory / "identity")
    return key.adopt(authority.certify(key.private_key.public_key()), authority.certificate)


def ports_of(node: RunningNode) -> list[str]:
    """Return where a node's daemon and its worker listen."""
    (worker,) = node.workers()
    listening = [c.laddr.port for c in worker.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    return [node.address, *(f"127.0.0.1:{port}" for port in listening)]


def worker_address(node: RunningNode) -> str:
    return ports_of(node)[1]


def test_without_a_certificate_or_with_a_foreign_one_nothing_is_answered(cluster: Cluster, tmp_path: Path) -> None:
    foreign = foreign_identity(tmp_path)
    node = cluster.nodes[0]
    for address in ports_of(node):
        for credentials in (Insecure(foreign.node_id), MutualTLS(foreign)):
            with credentials.channel(address, node.node_id) as channel:
                with pytest.raises(grpc.RpcError) as refused:
                    node_pb2_grpc.NodeStub(channel).Greet(pb.Greeting(), timeout=PATIENCE_S)
                assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_no_node_is_commanded_over_the_network_not_even_with_its_own_certificate(cluster: Cluster) -> None:
    first, second = cluster.nodes[:2]
    for caller in (first, second):
        with MutualTLS(NodeIdentity.load(caller.home.identity)).channel(first.address, first.node_id) as channel:
            control = node_pb2_grpc.ControlStub(channel)
            for call, request in ((control.Status, pb.StatusRequest()), (control.Stop, pb.StopRequest())):
                with pytest.raises(grpc.RpcError) as refused:
                    call(request, timeout=PATIENCE_S)
                assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert first.process.poll() is None


def test_a_node_may_not_greet_as_another(cluster: Cluster) -> None:
    first, second, third = cluster.nodes
    info = to_message(cluster.own.status().here[third.node_id].info)
    with MutualTLS(NodeIdentity.load(second.home.identity)).channel(first.address, first.node_id) as channel:
        with pytest.raises(grpc.RpcError) as refused:
            node_pb2_grpc.NodeStub(channel).Greet(pb.Greeting(info=info), timeout=PATIENCE_S)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("method", [FRAMES_METHOD, EXPERTS_METHOD])
def test_a_stream_of_frames_is_for_the_node_before_alone(cluster: Cluster, method: str) -> None:
    leader, stranger = cluster.nodes[1], cluster.nodes[2]
    release = Message(Kind.RELEASE, "0" * 32, epoch=1).encode()
    with MutualTLS(NodeIdentity.load(stranger.home.identity)).channel(
        worker_address(leader), leader.node_id
    ) as channel:
        stream: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
        call = stream(iter([release]), timeout=PATIENCE_S)
        with pytest.raises(grpc.RpcError) as refused:
            next(call)
        assert refused.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED)
    assert cluster.model is not None
    assert len(answer(cluster.model, request())) == 8


def test_bytes_that_are_no_tls_and_half_open_connections_harm_nobody(cluster: Cluster, tmp_path: Path) -> None:
    node = cluster.nodes[0]
    (worker,) = node.workers()
    processes = [psutil.Process(node.process.pid), worker]
    before = [process.memory_info().rss for process in processes]
    noise = [
        b"GET / HTTP/1.1\r\nHost: node\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(2000),
        os.urandom(5000),
        b"\x16\x03\x01\xff\xff" + os.urandom(3000),  # a TLS record that says it is long
    ]
    ports = [int(address.rpartition(":")[2]) for address in ports_of(node)]
    with ExitStack() as stack:
        for port in (*ports, enrolment_port(ports[0])):
            for data in [*noise, *[b""] * HALF_OPEN]:
                connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S))
                connection.sendall(data)
        with OwnNode.connect(node.home) as own:
            assert own.status().nodes
        token = JoinToken.parse(node.token())
        assert asyncio.run(join([node.address], token, tmp_path, PATIENCE_S)).ca_certificate
        assert cluster.model is not None
        assert len(answer(cluster.model, request())) == 8
        with coordinator_stub(cluster) as anew:
            assert anew.Describe(coordinator_pb2.DescribeRequest(), timeout=PATIENCE_S)
    after = [process.memory_info().rss for process in processes]
    assert all(late - early < MAX_GROWTH_BYTES for early, late in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        (coordinator_pb2.Sampling(temperature=math.nan), "temperature"),
        (coordinator_pb2.Sampling.FromString(bytes((0b1111_0000, 1, 1))), "does not have"),  # a field 30
        (coordinator_pb2.Sampling(logit_bias={1: 1e9}), "logit_bias"),
    ],
)
def test_fields_that_cannot_be_are_refused_before_any_work(
    cluster: Cluster, sampling: coordinator_pb2.Sampling, said: str
) -> None:
    assert cluster.model is not None
    with coordinator_stub(cluster) as stub:
        with pytest.raises(InvalidRequestError, match=said), translated("it"):
            next(stub.Answer(coordinator_pb2.AnswerRequest(input_ids=[1], sampling=sampling), timeout=PATIENCE_S))
        wrong = ({"conversation_id": b"short"}, {"request_id": b"short"}, {"input_ids": []}, {"input_ids": [2**31]})
        for fields in wrong:
            asked = coordinator_pb2.AnswerRequest(**{"input_ids": [1], **fields})
            with pytest.raises(InvalidRequestError), translated("it"):
                list(stub.Answer(asked, timeout=PATIENCE_S))
    assert len(answer(cluster.model, request())) == 8


@pytest.mark.parametrize(("messages", "said"), [("[" * 100_000, "not JSON"), ("{}", "must be list, got dict")])
def test_messages_that_cannot_be_are_refused(cluster: Cluster, messages: str, said: str) -> None:
    with coordinator_stub(cluster) as stub, pytest.raises(InvalidRequestError, match=said), translated("it"):
        stub.FormatChat(coordinator_pb2.FormatChatRequest(messages=messages), timeout=PATIENCE_S)

"""The whole join over real TLS: who gets in, who does not, and what a stranger learns."""

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from cluster.errors import ClusterError, TrustError
from cluster.lock import held
from cluster.trust import Authority, JoinToken, NodeIdentity, NodeKey, join
from cluster.trust.authority import AUTHORITY_NAME
from cluster.trust.credentials import server_name
from cluster.trust.enrolment import REFUSAL
from cluster.trust.failure_limit import PER_ADDRESS
from tests.cluster.trust.first_node import FirstNode
from tests.patience import PATIENCE_S


def node_at(server: socket.socket) -> str:
    """Return the address of the node whose enrolment port a socket is."""
    host, port = server.getsockname()
    return f"{host}:{port - 1}"


class Recorder:
    """A TLS server with an authority's key, or another's, that notes all it is told and answers nothing."""

    def __init__(self, authority: Authority, directory: Path) -> None:
        pem = directory / "recorder.pem"
        pem.write_bytes(authority.private_key + authority.certificate)
        self.heard = b""
        self.handshakes = 0
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pem)
        self._context.set_alpn_protocols(["h2"])

    @contextmanager
    def listening(self) -> Iterator[str]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=self._serve, args=(server,))
            thread.start()
            try:
                yield node_at(server)
            finally:
                server.shutdown(socket.SHUT_RDWR)
                thread.join()

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with suppress(OSError), connection, self._context.wrap_socket(connection, server_side=True) as stream:
                self.handshakes += 1
                self.heard += stream.recv(1 << 16)


def test_a_machine_with_a_token_becomes_a_node(first_node: FirstNode) -> None:
    async def use(address: str) -> None:
        identity = await first_node.join(address, JoinToken.parse(first_node.tokens.create().text), "node")
        assert identity == NodeIdentity.load(first_node.directory / "node")
        assert identity.node_id == NodeKey.load(first_node.directory / "node").node_id
        assert identity.ca_certificate == first_node.authority.certificate
        assert first_node.tokens.tokens[0].used_by == (identity.node_id,)

    first_node.run(use)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_an_hour_off_does_not_keep_a_machine_out(tmp_path: Path, hours: int) -> None:
    first_node = FirstNode(tmp_path, hours_ahead=hours)

    async def use(address: str) -> None:
        await first_node.join(address, first_node.tokens.create(), "node")

    first_node.run(use)


def test_several_join_at_once_with_one_token(first_node: FirstNode) -> None:
    async def use(address: str) -> None:
        token = first_node.tokens.create(max_uses=8)
        identities = await asyncio.gather(*(first_node.join(address, token, f"node {n}") for n in range(8)))
        assert set(first_node.tokens.tokens[0].used_by) == {identity.node_id for identity in identities}

    first_node.run(use)


def test_a_node_whose_reply_was_lost_joins_again_and_no_other_does(first_node: FirstNode) -> None:
    async def use(address: str) -> None:
        token = first_node.tokens.create(max_uses=1)
        identity = await first_node.join(address, token, "node")
        (first_node.directory / "node" / "certificates.pem").unlink()
        assert (await first_node.join(address, token, "node")).node_id == identity.node_id
        with pytest.raises(TrustError, match="not valid"):
            await first_node.join(address, token, "another")

    first_node.run(use)


@pytest.mark.parametrize("fault", ["expired", "revoked", "used up", "unknown"])
def test_a_token_that_is_not_valid_is_refused_without_saying_why(
    first_node: FirstNode, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def use(address: str) -> None:
        token = first_node.tokens.create(lifetime_s=60, max_uses=1)
        if fault == "expired":
            first_node.unix_s += 61
        elif fault == "revoked":
            first_node.tokens.revoke(first_node.tokens.tokens[0].token_id)
        elif fault == "used up":
            await first_node.join(address, token, "another")
        else:
            token = JoinToken(token.authority_key_hash, "x" * 32)
        with pytest.raises(TrustError) as caught:
            await first_node.join(address, token, "node")
        assert str(caught.value) == f"{address} refused to let this node in: {REFUSAL}"
        assert f"reason={'unknown join token' if fault == 'unknown' else 'join token'}" in caplog.text
        assert fault in caplog.text
        assert token.secret not in caplog.text
        assert not (first_node.directory / "node" / "certificates.pem").exists()

    first_node.run(use)


def test_another_authority_is_sent_nothing(first_node: FirstNode, tmp_path: Path) -> None:
    foreign = Authority.create(tmp_path / "foreign")
    recorder = Recorder(foreign, tmp_path)
    token = first_node.tokens.create()
    with recorder.listening() as address, pytest.raises(TrustError) as caught:
        asyncio.run(first_node.join(address, token, "node"))
    assert recorder.handshakes == 1
    assert recorder.heard == b""
    for part in (address, foreign.key_hash[:12], token.authority_key_hash[:12], "nothing was sent"):
        assert part in str(caught.value)


def test_the_recorder_hears_what_is_sent(first_node: FirstNode, tmp_path: Path) -> None:
    recorder = Recorder(first_node.authority, tmp_path)
    with recorder.listening() as address, pytest.raises(ClusterError, match="was lost, asked to let this node in"):
        asyncio.run(first_node.join(address, first_node.tokens.create(), "node"))
    assert recorder.heard.startswith(b"PRI * HTTP/2.0")


def test_the_first_address_where_the_authority_is_counts(first_node: FirstNode, tmp_path: Path) -> None:
    recorder = Recorder(Authority.create(tmp_path / "foreign"), tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = node_at(server)

    async def use(address: str) -> None:
        addresses = [closed, "no such host:1", "127.0.0.1:x", "127.0.0.1", foreign, address]
        await join(addresses, first_node.tokens.create(), first_node.directory / "node", timeout_s=PATIENCE_S)
        with pytest.raises(TrustError, match=r"cannot be reached.*; .*is not of the cluster"):
            await join(addresses[:-1], first_node.tokens.create(), first_node.directory / "node", timeout_s=PATIENCE_S)

    with recorder.listening() as foreign:
        first_node.run(use)


def test_a_name_is_resolved_as_the_system_does(first_node: FirstNode) -> None:
    async def use(address: str) -> None:
        port = address.rpartition(":")[2]
        await first_node.join(f"localhost:{port}", first_node.tokens.create(), "node")

    first_node.run(use)


def test_an_address_that_says_nothing_is_left_at_the_deadline(first_node: FirstNode) -> None:
    token = first_node.tokens.create()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = node_at(silent)
        with pytest.raises(ClusterError, match=rf"{address} does not answer within 0\.2 s: is moe-cluster up there"):
            asyncio.run(join([address], token, first_node.directory / "node", timeout_s=0.2))


@pytest.mark.parametrize(
    ("host", "reason"),
    [("127.0.0.1", ": nothing listens there (connection refused)"), ("localhost", ""), ("no.such.host.invalid", "")],
)
def test_a_node_that_is_not_there_is_named_as_it_was_typed(first_node: FirstNode, host: str, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{host}:{server.getsockname()[1] - 1}"
    with pytest.raises(ClusterError) as caught:
        asyncio.run(first_node.join(address, first_node.tokens.create(), "node"))
    assert str(caught.value).startswith(f"{address} ")
    assert f"{reason}: is moe-cluster up there" in str(caught.value)
    assert "Errno" not in str(caught.value)


def test_something_else_at_the_port_is_said(first_node: FirstNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            with server.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        answer = threading.Thread(target=refuse)
        answer.start()
        with pytest.raises(ClusterError, match="does not answer as a node"):
            asyncio.run(first_node.join(node_at(server), first_node.tokens.create(), "node"))
        answer.join()


def test_without_an_address_the_cure_is_named(first_node: FirstNode) -> None:
    with pytest.raises(ClusterError, match="--peer HOST:PORT"):
        asyncio.run(join([], first_node.tokens.create(), first_node.directory / "node"))


def test_who_fails_too_often_waits_even_with_a_good_token(first_node: FirstNode) -> None:
    async def use(address: str) -> None:
        good = first_node.tokens.create()
        for n in range(PER_ADDRESS):
            with pytest.raises(TrustError, match="not valid"):
                await first_node.join(address, JoinToken(good.authority_key_hash, f"{n:032}"), "node")
        first_node.monotonic_s += 20.5
        with pytest.raises(TrustError, match="too many failed tries; wait 40 s"):
            await first_node.join(address, good, "node")
        first_node.unix_s -= 3600  # only the monotonic clock counts
        first_node.monotonic_s += 39.5
        await first_node.join(address, good, "node")

    first_node.run(use)


def test_a_request_larger_than_any_honest_one_is_not_read(first_node: FirstNode) -> None:
    async def use(address: str) -> None:
        token = JoinToken(first_node.authority.key_hash, "x" * (64 << 10))
        with pytest.raises(TrustError, match="larger than max"):
            await first_node.join(address, token, "node")

    first_node.run(use)


def test_noise_and_a_thousand_half_open_connections_leave_the_port_working(first_node: FirstNode) -> None:
    async def use(address: str) -> None:
        host, port = address.split(":")
        writers = []
        for noise in (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)), b"\x16\x03\x01\xff\xff", b"") * 250:
            _, writer = await asyncio.open_connection(host, int(port) + 1)
            writer.write(noise)
            writers.append(writer)
        await first_node.join(address, first_node.tokens.create(), "node")
        for writer in writers:
            writer.transport.abort()

    first_node.run(use)


def test_strangers_that_begin_calls_and_send_nothing_keep_nobody_out(first_node: FirstNode) -> None:
    async def use(address: str) -> None:
        host, port = address.split(":")
        credentials = grpc.ssl_channel_credentials(first_node.authority.certificate)
        async with AsyncExitStack() as stack:
            for n in range(20):
                options = (*server_name(AUTHORITY_NAME), ("not shared", n))
                channel = grpc.aio.secure_channel(f"{host}:{int(port) + 1}", credentials, options)
                await stack.enter_async_context(channel)
                begin: Any = channel.stream_unary("/moe_cluster.v1.Enrolment/Enrol")
                stack.callback(begin().cancel)
                await channel.channel_ready()
            await first_node.join(address, first_node.tokens.create(), "node")

    first_node.run(use)


def test_tokens_that_another_process_holds_stop_nothing_but_who_joins(
    first_node: FirstNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = first_node.tokens.create()
    lock = first_node.directory / "tokens.lock"

    async def use(address: str) -> None:
        with held(lock, 0):
            joining = asyncio.create_task(first_node.join(address, token, "b"))
            await asyncio.sleep(0.2)  # never over where the server, which shares this loop, waits in it
            assert not joining.done()
        assert (await joining).node_id
        monkeypatch.setattr("cluster.trust.token_store.LOCK_S", 0.0)
        with held(lock, 0), pytest.raises(ClusterError, match="cannot read its join tokens now"):
            await first_node.join(address, token, "c")

    first_node.run(use)

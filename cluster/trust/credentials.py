"""Credentials: open this node's ports and channels, and tell which node called.

Two kinds: mutual TLS, in which both ends present a certificate of the cluster's authority; and none, for `--insecure`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeAlias

import grpc

from cluster.errors import ClusterError
from cluster.trust.identity import NodeIdentity, certified_id, dns_name
from cluster.trust.removal import RemovedNodes

Options: TypeAlias = tuple[tuple[str, int | str], ...]
Server: TypeAlias = grpc.aio.Server | grpc.Server
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any] | grpc.ServicerContext

_CLAIM = re.compile(r"(?:^| )moe-cluster-node/([0-9a-f]{16})$")

PING_MS = 3500
"""Timeout of a ping. It tolerates a process that is stopped, or gets no CPU, for 3 s, and detects a lost peer within
the 5 s after which membership counts a node as lost."""

_KEEPALIVE: Options = (
    # A peer that is stopped or unplugged sends no RST: without pings an idle connection to it never fails.
    ("grpc.keepalive_time_ms", 1000),
    # Limits an unanswered ping only through TCP_USER_TIMEOUT, which macOS does not have, and which does not expire for
    # a stopped process whose kernel still acknowledges (observed for 60 s) ...
    ("grpc.keepalive_timeout_ms", PING_MS),
    # ... so this undocumented option sets the limit.
    ("grpc.http2.ping_timeout_ms", PING_MS),
    # Also between calls: links and channels are idle for minutes.
    ("grpc.keepalive_permit_without_calls", 1),
    # By default gRPC stops after two pings without data between them.
    ("grpc.http2.max_pings_without_data", 0),
)

CHANNEL_OPTIONS: Options = (
    *_KEEPALIVE,
    # Reconnects within 0.4 s to a node that is back; with the default back-off it takes 14 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Timeout of one attempt to connect. The default of 20 s is spent on each address that does not answer at all.
    ("grpc.min_reconnect_backoff_ms", 1000),
    # Nodes are on the local network: do not send hidden states through $http_proxy.
    ("grpc.enable_http_proxy", 0),
)

MAX_CONNECTIONS = 1280

SERVER_OPTIONS: Options = (
    *_KEEPALIVE,
    # By default a server disconnects a client that pings every second, after 2.5 s.
    ("grpc.http2.max_ping_strikes", 0),
    # By default a second server can bind the same port, and each gets a part of the calls.
    ("grpc.so_reuseport", 0),
    # Connections without a handshake are closed after 2 s instead of 120; a node connects within 1 s or tries again.
    ("grpc.server_handshake_timeout_ms", 2000),
    # gRPC limits no single address. So many that 1,000 half-open ones keep no node out; they take 60 MB (measured).
    ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
)


def max_message(size_bytes: int) -> Options:
    """Return the options that set the largest message in both directions (gRPC's default is 4 MiB)."""
    return (("grpc.max_send_message_length", size_bytes), ("grpc.max_receive_message_length", size_bytes))


class Credentials(Protocol):
    """Opens a node's ports and channels, for asyncio and for threads."""

    @property
    def insecure(self) -> bool:
        """Whether every caller that reaches a port is accepted."""

    @property
    def generation(self) -> object:
        """What differs once the node's certificate was renewed: channels that were made before have the old one."""

    def add_port(self, server: Server, address: str) -> int:
        """Add a port to a server made with SERVER_OPTIONS; return its number. Raises ClusterError if it is taken."""

    def aio_channel(self, target: str, node_id: str, options: Options = ()) -> grpc.aio.Channel:
        """Return a channel that accepts only the node `node_id`, or any node of this cluster for ANY_NODE.

        `options` override CHANNEL_OPTIONS.
        """

    def channel(self, target: str, node_id: str, options: Options = ()) -> grpc.Channel:
        """Return the same channel as `aio_channel`, for threads."""

    def peer_id(self, context: Context) -> str:
        """Return the id of the node that called. Raises TrustError if it is not of the caller's key."""

    def refusal(self, node_id: str) -> str:
        """Return why a node with a valid certificate is refused, because it was removed; "" if it is not."""


class MutualTLS:
    """Credentials from a node's identity: a call is sent only after the other end proved that it is the right node.

    A renewed certificate, that `identity` returns from then on, is used by every new connection to a port that is open
    already, and by every channel that is made after it.
    """

    insecure = False

    def __init__(
        self, identity: NodeIdentity | Callable[[], NodeIdentity], removed: RemovedNodes | None = None
    ) -> None:
        self._removed = removed
        self._identity: Callable[[], NodeIdentity]
        self._identity = partial(_same, identity) if isinstance(identity, NodeIdentity) else identity
        self._channel = _ChannelCredentials(self._identity())

    @property
    def generation(self) -> object:
        """See Credentials."""
        return self._identity()

    def add_port(self, server: Server, address: str) -> int:
        """See Credentials."""
        used = self._identity()

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            """Return the new certificate, if there is one, at a handshake. Called in threads of gRPC; never raises."""
            nonlocal used
            if (now := self._identity()) is used:
                return None
            used = now
            return _of_server(now)

        credentials = grpc.dynamic_ssl_server_credentials(
            _of_server(used),
            renewed,  # type: ignore[arg-type]  # the stubs do not know that None means no change
            require_client_authentication=True,
        )
        return listen(address, lambda: server.add_secure_port(address, credentials))

    def aio_channel(self, target: str, node_id: str, options: Options = ()) -> grpc.aio.Channel:
        """See Credentials."""
        return grpc.aio.secure_channel(
            target, self._credentials(), (*CHANNEL_OPTIONS, *server_name(dns_name(node_id)), *options)
        )

    def channel(self, target: str, node_id: str, options: Options = ()) -> grpc.Channel:
        """See Credentials."""
        return grpc.secure_channel(
            target, self._credentials(), (*CHANNEL_OPTIONS, *server_name(dns_name(node_id)), *options)
        )

    def peer_id(self, context: Context) -> str:
        """See Credentials. Read from the certificate, which the handshake has verified."""
        (certificate,) = context.auth_context()["x509_pem_cert"]
        assert isinstance(certificate, bytes)
        return certified_id(certificate)

    def refusal(self, node_id: str) -> str:
        """See Credentials."""
        removal = None if self._removed is None else self._removed.get(node_id)
        return "" if removal is None else removal.words

    def _credentials(self) -> grpc.ChannelCredentials:
        if (now := self._identity()) is not self._channel.identity:
            self._channel = _ChannelCredentials(now)
        return self._channel.credentials


class _ChannelCredentials:
    """The credentials of channels with one certificate."""

    def __init__(self, identity: NodeIdentity) -> None:
        self.identity = identity
        self.credentials = grpc.ssl_channel_credentials(
            identity.ca_certificate, identity.private_key, identity.certificate
        )


def _same(identity: NodeIdentity) -> NodeIdentity:
    return identity


def _of_server(identity: NodeIdentity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.private_key, identity.certificate)], identity.ca_certificate
    )


class Insecure:
    """No credentials: every caller is accepted, with the node id that it claims."""

    insecure = True

    def __init__(self, node_id: str) -> None:
        # Sent with every call, without an interceptor for each kind of call.
        self._options: Options = (*CHANNEL_OPTIONS, ("grpc.secondary_user_agent", f"moe-cluster-node/{node_id}"))
        self.generation = None

    def add_port(self, server: Server, address: str) -> int:
        """See Credentials."""
        return listen(address, lambda: server.add_insecure_port(address))

    def aio_channel(self, target: str, node_id: str, options: Options = ()) -> grpc.aio.Channel:  # noqa: ARG002
        """See Credentials; but that the other end is `node_id` is not checked."""
        return grpc.aio.insecure_channel(target, (*self._options, *options))

    def channel(self, target: str, node_id: str, options: Options = ()) -> grpc.Channel:  # noqa: ARG002
        """See Credentials; but that the other end is `node_id` is not checked."""
        return grpc.insecure_channel(target, (*self._options, *options))

    def peer_id(self, context: Context) -> str:
        """See Credentials. The id is claimed, not proven; "" if the caller claims none."""
        metadata = dict(context.invocation_metadata() or ())
        match = _CLAIM.search(str(metadata.get("user-agent", "")))
        return match[1] if match else ""

    def refusal(self, node_id: str) -> str:  # noqa: ARG002
        """See Credentials: nobody can be removed."""
        return ""


def server_name(name: str) -> Options:
    """Return the option that makes a TLS channel accept only certificates with this DNS name, at any address."""
    return (("grpc.ssl_target_name_override", name),)


def listen(address: str, add_port: Callable[[], int]) -> int:
    """Return the port that gRPC's `add_..._port` opened at `address`. Raises ClusterError if it could not."""
    try:
        return add_port()
    except RuntimeError as exc:
        raise ClusterError(
            f"cannot listen on {address}: the port is taken, or the address is not this machine's; "
            "choose another with --port"
        ) from exc

"""Credentials: how this node opens its ports and its channels, and who called.

Two kinds: mutual TLS, where both ends show a certificate of the cluster's authority; and none, which somebody has
typed `--insecure` for.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import grpc

from cluster.errors import ClusterError
from cluster.trust.identity import NodeIdentity, dns_name

Options: TypeAlias = tuple[tuple[str, int | str], ...]
Server: TypeAlias = grpc.aio.Server | grpc.Server
Context: TypeAlias = grpc.aio.ServicerContext[Any, Any] | grpc.ServicerContext

_CLAIM = re.compile(r"(?:^| )moe-cluster-node/([0-9a-f]{16})$")

PING_MS = 3500
"""For a ping to be answered. A process that is stopped, or kept waiting by others, for 3 s is only slow; whoever is
gone is missed within the 5 s after which membership takes a node for lost."""

_KEEPALIVE: Options = (
    # A peer that is stopped or unplugged sends no RST: without pings an idle connection to it looks alive for ever.
    ("grpc.keepalive_time_ms", 1000),
    # Bounds an unanswered ping through TCP_USER_TIMEOUT only, which macOS does not have, and which a stopped process
    # whose kernel still acknowledges does not trip (seen after 60 s) ...
    ("grpc.keepalive_timeout_ms", PING_MS),
    # ... so this one, undocumented, does it.
    ("grpc.http2.ping_timeout_ms", PING_MS),
    # Links wait for minutes between requests, channels between calls.
    ("grpc.keepalive_permit_without_calls", 1),
    # By default no more pings are sent after two without data between them.
    ("grpc.http2.max_pings_without_data", 0),
)

CHANNEL_OPTIONS: Options = (
    *_KEEPALIVE,
    # A node that is back is used within 0.4 s; with the default back-off after 14 s.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # How long one attempt to connect may take: 20 s by default, which a black-holed address uses up.
    ("grpc.min_reconnect_backoff_ms", 1000),
    # Nodes are neighbours. $http_proxy is for the way out, and is no one to carry hidden states.
    ("grpc.enable_http_proxy", 0),
)

SERVER_OPTIONS: Options = (
    *_KEEPALIVE,
    # By default a server says GOAWAY to a client that pings every second, after 2.5 s.
    ("grpc.http2.max_ping_strikes", 0),
    # By default a second server binds the same port in silence, and they share the callers.
    ("grpc.so_reuseport", 0),
    # Strangers that connect and say nothing are dropped after 5 s, not after 120, and cannot use up the 256 files that
    # a process on macOS may open.
    ("grpc.server_handshake_timeout_ms", 5000),
    ("grpc.max_allowed_incoming_connections", 128),
)


def max_message(size_bytes: int) -> Options:
    """Return the options for a larger or smaller message than gRPC's default of 4 MiB, each way."""
    return (("grpc.max_send_message_length", size_bytes), ("grpc.max_receive_message_length", size_bytes))


class Credentials(Protocol):
    """What a node opens ports and channels with; asyncio or threads, the same."""

    @property
    def insecure(self) -> bool:
        """Whether anybody who reaches a port is believed."""

    def add_port(self, server: Server, address: str) -> int:
        """Let a server (made with SERVER_OPTIONS) listen; return the port. Raises ClusterError if it is taken."""

    def aio_channel(self, target: str, node_id: str, options: Options = ()) -> grpc.aio.Channel:
        """Return a channel to a node (ANY_NODE: of this cluster); no call gets through to any other.

        `options` go over CHANNEL_OPTIONS.
        """

    def channel(self, target: str, node_id: str, options: Options = ()) -> grpc.Channel:
        """Return a channel for threads; else as `aio_channel`."""

    def peer_id(self, context: Context) -> str:
        """Return the id of the node that called."""


class MutualTLS:
    """Credentials from a node's identity: the other end is the node that was meant, or nothing is said."""

    insecure = False

    def __init__(self, identity: NodeIdentity) -> None:
        pair = (identity.private_key, identity.certificate)
        self._server = grpc.ssl_server_credentials([pair], identity.ca_certificate, require_client_auth=True)
        self._channel = grpc.ssl_channel_credentials(identity.ca_certificate, *pair)

    def add_port(self, server: Server, address: str) -> int:
        """See Credentials."""
        return listen(address, lambda: server.add_secure_port(address, self._server))

    def aio_channel(self, target: str, node_id: str, options: Options = ()) -> grpc.aio.Channel:
        """See Credentials."""
        return grpc.aio.secure_channel(
            target, self._channel, (*CHANNEL_OPTIONS, *server_name(dns_name(node_id)), *options)
        )

    def channel(self, target: str, node_id: str, options: Options = ()) -> grpc.Channel:
        """See Credentials."""
        return grpc.secure_channel(target, self._channel, (*CHANNEL_OPTIONS, *server_name(dns_name(node_id)), *options))

    def peer_id(self, context: Context) -> str:
        """See Credentials. From the certificate, which the handshake has verified."""
        (name,) = context.auth_context()["x509_common_name"]
        assert isinstance(name, bytes)
        return name.decode()


class Insecure:
    """No credentials: whoever reaches a port is believed, and so is the id that a caller gives as its own."""

    insecure = True

    def __init__(self, node_id: str) -> None:
        # Goes out with every call, without an interceptor for each of its kinds.
        self._options: Options = (*CHANNEL_OPTIONS, ("grpc.secondary_user_agent", f"moe-cluster-node/{node_id}"))

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
        """See Credentials. A claim, no proof; "" if there is none."""
        metadata = dict(context.invocation_metadata() or ())
        match = _CLAIM.search(str(metadata.get("user-agent", "")))
        return match[1] if match else ""


def server_name(name: str) -> Options:
    """Return the option that makes a TLS channel accept certificates with this DNS name only, at any address."""
    return (("grpc.ssl_target_name_override", name),)


def listen(address: str, add_port: Callable[[], int]) -> int:
    """Return the port that gRPC's `add_..._port` opened at `address`. Raises ClusterError if it did not."""
    try:
        return add_port()
    except RuntimeError as exc:
        raise ClusterError(
            f"cannot listen on {address}: the port is taken, or the address is not this machine's; "
            "choose another with --port"
        ) from exc

"""Enrolment: the port where a machine gets a certificate for a join token, or a new one for the one that it has.

Open on the nodes that keep the authority.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc

from cluster.errors import ClusterError, TrustError
from cluster.membership.membership import JOIN_ANEW
from cluster.trust.authority import Authority
from cluster.trust.credentials import SERVER_OPTIONS, Options, listen, max_message
from cluster.trust.failure_limit import FailureLimit
from cluster.trust.identity import load_certificates, node_id_of, proven_key
from cluster.trust.removal import RemovedNodes
from cluster.trust.token_store import TokenStore
from cluster.wire import enrolment_pb2, enrolment_pb2_grpc

MAX_MESSAGE_BYTES = 16 << 10  # a request has 0.6 KiB
UNREADABLE = "it cannot read its join tokens now; its log says why"
REFUSAL = "the join token is not valid, or not any more; make another with `moe-cluster token create`"

_OPTIONS: Options = (
    *SERVER_OPTIONS,
    *max_message(MAX_MESSAGE_BYTES),
    # A joining machine makes one call at once. Whoever waits with it gives way, and so cannot keep others out.
    ("grpc.max_connection_idle_ms", 2_000),
    ("grpc.max_connection_age_ms", 5_000),
    ("grpc.max_connection_age_grace_ms", 5_000),
    ("grpc.max_concurrent_streams", 1),
)

Context = grpc.aio.ServicerContext[Any, Any]

logger = logging.getLogger(__name__)


def enrolment_port(port: int) -> int:
    """Return the enrolment port of a node that listens at `port`."""
    return port + 1


@asynccontextmanager
async def serve(
    authority: Authority,
    tokens: TokenStore,
    removed: RemovedNodes,
    addresses: Sequence[str],
    now_s: Callable[[], float] = time.monotonic,
) -> AsyncIterator[int]:
    """Serve enrolment at `addresses` while the context lasts; yields the port of the last address.

    Raises:
        ClusterError: a port is taken.
    """
    server = grpc.aio.server(options=_OPTIONS)
    enrolment_pb2_grpc.add_EnrolmentServicer_to_server(Enrolment(authority, tokens, removed, now_s), server)
    credentials = grpc.ssl_server_credentials([(authority.private_key, authority.certificate)])
    for address in addresses:
        port = listen(address, partial(server.add_secure_port, address, credentials))
    await server.start()
    try:
        yield port
    finally:
        await server.stop(grace=1.0)


class RefusedError(TrustError):
    """A refusal whose reason the caller is told: it has proven its key, and the reason is about that node alone."""

    code = "refused"


class Enrolment(enrolment_pb2_grpc.EnrolmentServicer):
    """Issues certificates. The reply to a wrong join token does not say what is wrong with it."""

    def __init__(
        self, authority: Authority, tokens: TokenStore, removed: RemovedNodes, now_s: Callable[[], float]
    ) -> None:
        self._authority = authority
        self._tokens = tokens
        self._removed = removed
        self._now_s = now_s
        self._failures = FailureLimit()
        self._one_at_a_time = asyncio.Lock()

    async def Enrol(  # noqa: N802 - gRPC's name
        self, request: enrolment_pb2.EnrolRequest, context: Context
    ) -> enrolment_pb2.EnrolReply:
        """See enrolment.proto."""
        return await self._answer(context, partial(self._admit, request, context.peer()))

    async def Renew(  # noqa: N802 - gRPC's name
        self, request: enrolment_pb2.RenewRequest, context: Context
    ) -> enrolment_pb2.EnrolReply:
        """See enrolment.proto."""
        return await self._answer(context, partial(self._renew, request, context.peer()))

    async def _answer(self, context: Context, issue: Callable[[], bytes]) -> enrolment_pb2.EnrolReply:
        """Return the certificate that `issue` returns, or end the call with why there is none."""
        peer = context.peer()
        address = peer.rpartition(":")[0]  # without the port, which differs at each try
        try:
            async with self._one_at_a_time:
                if wait_s := self._failures.wait_s(address, self._now_s()):
                    details = f"too many failed tries; wait {math.ceil(wait_s)} s"
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, details)
                certificate = await asyncio.to_thread(issue)  # may wait for the lock of the tokens
            return enrolment_pb2.EnrolReply(certificate=certificate)
        except TrustError as exc:
            self._failures.failed(address, self._now_s())
            logger.warning("enrolment refused peer=%s reason=%s", peer, exc)
            refusal = str(exc) if isinstance(exc, RefusedError) else REFUSAL
        except ClusterError as exc:
            logger.error("enrolment failed peer=%s error=%s", peer, exc)
            await context.abort(grpc.StatusCode.UNAVAILABLE, UNREADABLE)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)

    def _admit(self, request: enrolment_pb2.EnrolRequest, peer: str) -> bytes:
        public_key = proven_key(request.certificate_request)
        node_id = node_id_of(public_key)
        self._require_not_removed(node_id)
        self._tokens.redeem(request.secret, node_id)
        logger.info("enrolled node=%s peer=%s", node_id, peer)
        return self._authority.certify(public_key)

    def _renew(self, request: enrolment_pb2.RenewRequest, peer: str) -> bytes:
        public_key = proven_key(request.certificate_request)
        node_id = node_id_of(public_key)
        self._require_not_removed(node_id)
        try:
            (certificate,) = load_certificates(request.certificate)
        except ValueError as exc:
            raise TrustError(f"a certificate that cannot be read: {exc}") from exc
        if not self._authority.may_renew(certificate, public_key):
            raise RefusedError(f"the certificate is of another cluster, or ended too long ago: {JOIN_ANEW}")
        logger.info("renewed node=%s peer=%s", node_id, peer)
        return self._authority.certify(public_key)

    def _require_not_removed(self, node_id: str) -> None:
        if (removal := self._removed.get(node_id)) is not None:
            raise RefusedError(removal.words)

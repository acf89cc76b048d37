"""Joining: gets a certificate of a cluster: for a join token, or for the certificate that will end."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from cluster.errors import ClusterError, TrustError
from cluster.membership.address import join as join_address
from cluster.membership.address import split as split_address
from cluster.rpc_errors import details_of
from cluster.rpc_words import in_words
from cluster.trust.authority import AUTHORITY_NAME
from cluster.trust.credentials import CHANNEL_OPTIONS, server_name
from cluster.trust.enrolment import enrolment_port
from cluster.trust.identity import NodeIdentity, NodeKey, certificate_pem, key_hash
from cluster.trust.join_token import JoinToken
from cluster.wire import enrolment_pb2, enrolment_pb2_grpc

TIMEOUT_S = 5.0

_CURE = (
    "is moe-cluster up there, does it keep the cluster's authority, as the first node does, and are its port and the "
    "next (7420 and 7421 by default) open?"
)


async def join(
    addresses: Sequence[str], token: JoinToken, identity_directory: Path, timeout_s: float = TIMEOUT_S
) -> NodeIdentity:
    """Get a certificate from the token's authority, at the first of `addresses` that presents its key, and store it.

    An address is a hint: nothing is sent before the other end has proven the authority's key. Each address takes at
    most `timeout_s`, and the request for the certificate too.

    Raises:
        TrustError: the authority refused the token, or the addresses belong to other authorities.
        ClusterError: no address answered, or the connection to the authority was lost during the request.
    """
    key = NodeKey.open(identity_directory)
    failures: list[ClusterError] = []
    for address in addresses:
        try:
            port = await _find(address, token, timeout_s)
        except ClusterError as exc:
            failures.append(exc)
        else:
            return key.adopt(await _ask(port, token, key, timeout_s), port.certificate)
    if not failures:
        raise ClusterError("no node was found to join; name one with --peer HOST:PORT")
    told = "; ".join(str(failure) for failure in failures)
    if any(isinstance(failure, TrustError) for failure in failures):
        raise TrustError(told)
    raise ClusterError(f"{told}: {_CURE}")


@dataclass(frozen=True, slots=True)
class _AuthorityPort:
    """An enrolment port that was found: its gRPC target, and its certificate (PEM) with the token's key."""

    address: str
    target: str
    certificate: bytes


async def _find(address: str, token: JoinToken, timeout_s: float) -> _AuthorityPort:
    """Check the certificate at `address` in a TLS handshake that sends nothing else.

    Raises:
        TrustError: the certificate belongs to another authority, or cannot be read.
        ClusterError: no node answered.
    """
    try:
        split = urlsplit(f"//{address}")
        if split.hostname is None or split.port is None:
            raise ValueError("it is not HOST:PORT")
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(
                split.hostname, enrolment_port(split.port), ssl=_accept_any(), server_hostname=AUTHORITY_NAME
            )
    except TimeoutError as exc:
        raise ClusterError(f"{address} does not answer within {timeout_s:g} s") from exc
    except ssl.SSLError as exc:
        raise ClusterError(f"{address} does not answer as a node: {in_words(exc.reason or str(exc))}") from exc
    except socket.gaierror as exc:
        raise ClusterError(f"{address} cannot be found: {in_words(str(exc.strerror))}") from exc
    except OSError as exc:  # without an errno it combines the errors of several addresses
        reason = f": {in_words(os.strerror(exc.errno))}" if exc.errno else ""
        raise ClusterError(f"{address} does not answer{reason}") from exc
    except ValueError as exc:  # a port or a host name that cannot be one
        raise ClusterError(f"{address} cannot be reached: {exc}") from exc
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        peer = writer.get_extra_info("peername")
    finally:
        writer.transport.abort()
    try:
        certificate = x509.load_der_x509_certificate(shown)
        found = key_hash(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise TrustError(f"{address} shows a certificate that cannot be read: {exc}") from exc
    if found != token.authority_key_hash:
        raise TrustError(
            f"{address} is not of the cluster that made the join token: its key is {found[:12]}..., the token's "
            f"{token.authority_key_hash[:12]}...; nothing was sent to it"
        )
    # The numeric address: gRPC's resolver does not know every name that the system's does (`.local`).
    host, _ = socket.getnameinfo(peer, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)  # with the scope if link-local
    return _AuthorityPort(address, join_address(host, peer[1]), certificate_pem(certificate))


async def renew(addresses: Sequence[str], key: NodeKey, timeout_s: float = TIMEOUT_S) -> NodeIdentity:
    """Get a new certificate for a node in place of its own, from the first keeper at `addresses`, and store it.

    The keeper is known by the authority's certificate, which this node has.

    Raises:
        TrustError: a keeper refused it.
        ClusterError: no address answered.
    """
    identity = key.identity()
    request = enrolment_pb2.RenewRequest(
        certificate_request=key.certificate_request(), certificate=identity.certificate
    )
    failures: list[str] = []
    for address in addresses:
        host, port = split_address(address)
        target = join_address(host, enrolment_port(port))
        try:
            async with _enrolment(_AuthorityPort(address, target, identity.ca_certificate), "renew this node") as stub:
                reply = await stub.Renew(request, timeout=timeout_s)
            return key.adopt(bytes(reply.certificate), identity.ca_certificate)
        except TrustError:
            raise
        except ClusterError as exc:
            failures.append(str(exc))
    raise ClusterError("; ".join(failures) or "no node that keeps the cluster's authority is known")


async def _ask(port: _AuthorityPort, token: JoinToken, key: NodeKey, timeout_s: float) -> bytes:
    """Return a certificate (PEM) for the key. The channel accepts only the certificate that `_find` returned."""
    request = enrolment_pb2.EnrolRequest(secret=token.secret, certificate_request=key.certificate_request())
    async with _enrolment(port, "let this node in") as stub:
        reply = await stub.Enrol(request, timeout=timeout_s)
    return bytes(reply.certificate)


@asynccontextmanager
async def _enrolment(port: _AuthorityPort, wish: str) -> AsyncIterator[enrolment_pb2_grpc.EnrolmentStub]:
    """Yield the calls of an enrolment port. Raises TrustError for its refusals, ClusterError if it is lost."""
    credentials = grpc.ssl_channel_credentials(port.certificate)
    options = (*CHANNEL_OPTIONS, *server_name(AUTHORITY_NAME))
    async with grpc.aio.secure_channel(port.target, credentials, options) as channel:
        try:
            yield enrolment_pb2_grpc.EnrolmentStub(channel)
        except grpc.aio.AioRpcError as exc:
            if exc.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.RESOURCE_EXHAUSTED):
                raise TrustError(f"{port.address} refused to {wish}: {exc.details()}") from exc
            raise ClusterError(f"{port.address} was lost, asked to {wish}: {details_of(exc)}") from exc


def _accept_any() -> ssl.SSLContext:
    """Return a TLS context that verifies nothing; the caller checks the certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context

"""Authority: the key that signs the certificates of a cluster's nodes, and who was removed. Its keepers have it.

The first node makes it and gives copies to further nodes, see `cluster.daemon.keeping`. Knows nothing about join
tokens: the caller of `certify` has decided that the node may join.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.errors import TrustError
from cluster.trust import private_file
from cluster.trust.identity import (
    ANY_NODE,
    certificate_pem,
    dns_name,
    key_hash,
    load_certificates,
    load_private_key,
    node_id_of,
    private_pem,
)
from cluster.trust.removal import Removal

AUTHORITY_NAME = dns_name("authority")  # cannot be a node id: those are hex digits
LIFETIME = timedelta(days=365)
"""Of a node's certificate, which the node renews in time."""

AUTHORITY_LIFETIME = timedelta(days=36525)
"""Of the authority's own certificate: it cannot be renewed without every node joining again."""

RENEWABLE = timedelta(days=30)
"""For how long a certificate that has ended can still be renewed: a Mac that slept needs no new token."""

CLOCK_SLACK = timedelta(days=1)  # so that a new certificate is valid for a Mac whose clock is behind
FILE = "authority.pem"


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Authority:
    """A cluster's certificate authority: a P-256 key and its self-signed certificate."""

    def __init__(
        self,
        private_key: ec.EllipticCurvePrivateKey,
        certificate: x509.Certificate,
        now: Callable[[], datetime],
        lifetime: timedelta | None = None,
    ) -> None:
        self.private_key = private_pem(private_key)
        self.certificate = certificate_pem(certificate)
        self.key_hash = key_hash(private_key.public_key())
        self._private_key = private_key
        self._certificate = certificate
        self._now = now
        self._lifetime = LIFETIME if lifetime is None else lifetime

    @classmethod
    def new(cls, now: Callable[[], datetime] = _utc_now) -> Authority:
        """Return the authority of a new cluster without writing it to disk."""
        private_key = ec.generate_private_key(ec.SECP256R1())
        return cls(private_key, _self_signed(private_key, now()), now)

    @classmethod
    def create(cls, directory: Path, now: Callable[[], datetime] = _utc_now) -> Authority:
        """Create the authority of a new cluster and write it to disk. Raises TrustError if the directory has one."""
        if cls.is_in(directory):
            raise TrustError(f"{directory / FILE} exists: this node holds the authority of a cluster already")
        authority = cls.new(now)
        authority.keep(directory)
        return authority

    @classmethod
    def is_in(cls, directory: Path) -> bool:
        """Whether a directory has an authority."""
        return (directory / FILE).exists()

    @classmethod
    def load(
        cls, directory: Path, now: Callable[[], datetime] = _utc_now, lifetime: timedelta | None = None
    ) -> Authority:
        """Read the authority; `lifetime` is of the certificates that it issues.

        Raises:
            TrustError: it is missing, damaged, or readable by other users.
        """
        path = directory / FILE
        try:
            return cls.read(private_file.read(path), now, lifetime)
        except (OSError, ValueError) as exc:
            raise TrustError(
                f"the cluster's authority {path} cannot be read: {exc}; put a copy of it back, or delete it: the nodes "
                "go on without it, but only the other keepers can let further ones in"
            ) from exc

    @classmethod
    def read(cls, pem: bytes, now: Callable[[], datetime] = _utc_now, lifetime: timedelta | None = None) -> Authority:
        """Return the authority in `pem`. Raises ValueError if it is none, or its key and certificate do not match."""
        authority = cls(load_private_key(pem), load_certificates(pem)[0], now, lifetime)
        try:
            certified = key_hash(authority._certificate.public_key())
        except UnsupportedAlgorithm as exc:
            raise ValueError("its certificate is of an unknown kind of key") from exc
        if certified != authority.key_hash:
            raise ValueError("its certificate is of another key")
        return authority

    @property
    def pem(self) -> bytes:
        """The key and the certificate: all that a keeper has."""
        return self.private_key + self.certificate

    def keep(self, directory: Path) -> None:
        """Write the authority to a directory."""
        private_file.write(directory / FILE, self.pem)

    def certify(self, public_key: ec.EllipticCurvePublicKey) -> bytes:
        """Return a certificate (PEM) for a key; it names the node id derived from the key."""
        node_id = node_id_of(public_key)
        usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        names = [x509.DNSName(dns_name(name)) for name in (node_id, ANY_NODE)]
        certificate = (
            _builder(node_id, public_key, self._certificate.subject, self._now(), self._lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
            .add_extension(_authority_key_id(self._private_key), critical=False)
            .add_extension(
                x509.SubjectAlternativeName(names),
                critical=False,
            )
            .sign(self._private_key, hashes.SHA256())
        )
        return certificate_pem(certificate)

    def may_renew(self, certificate: x509.Certificate, public_key: ec.EllipticCurvePublicKey) -> bool:
        """Whether a key's certificate is of this authority, and ended less than RENEWABLE ago, if at all."""
        try:
            certificate.verify_directly_issued_by(self._certificate)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            return False
        is_its_own = key_hash(certificate.public_key()) == key_hash(public_key)
        return is_its_own and self._now() < certificate.not_valid_after_utc + RENEWABLE

    def remove(self, node_id: str, name: str) -> Removal:
        """Return the signed word that a node is removed from the cluster."""
        at_s = int(self._now().timestamp())
        signature = self._private_key.sign(Removal.signed_bytes(node_id, name, at_s), ec.ECDSA(hashes.SHA256()))
        return Removal(node_id, name, at_s, signature)


def _self_signed(private_key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    """Return the authority's certificate: it issues the nodes' certificates, and the enrolment port presents it."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, AUTHORITY_NAME)])
    return (
        _builder(AUTHORITY_NAME, private_key.public_key(), subject, now, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(_authority_key_id(private_key), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(AUTHORITY_NAME)]), critical=False)
        .sign(private_key, hashes.SHA256())
    )


def _builder(
    common_name: str,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    now: datetime,
    lifetime: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _authority_key_id(private_key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(private_key.public_key())


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,  # in the TLS handshake
        key_cert_sign=signs_certificates,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )

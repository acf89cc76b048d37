"""Identity: a node's key, the node id derived from it, and the certificate that a cluster issued for both.

A node id is the beginning of the public key's hash. So no node can claim the id of another key, and no list of ids is
needed: the authority computes the id that it signs. (Finding another key with a given id takes 2^64 tries, and joining
with it still takes a join token.)
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import NameOID

from cluster.errors import TrustError
from cluster.trust import private_file

KEY_FILE = "node.key"
DOMAIN = ".moe-cluster"
ANY_NODE = "any"
"""In place of a node id: any node of this cluster. Every certificate has both names."""

CERTIFICATES_FILE = "certificates.pem"  # the node's, then the authority's


@dataclass(frozen=True, slots=True)
class NodeKey:
    """A node's private key, stored in `directory`. Created once. An insecure cluster needs nothing else."""

    directory: Path
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def load(cls, directory: Path) -> NodeKey:
        """Read the key. Raises TrustError if it is missing, damaged, or readable by other users."""
        path = directory / KEY_FILE
        try:
            return cls(directory, load_private_key(private_file.read(path)))
        except (OSError, ValueError) as exc:
            raise TrustError(f"the node's key {path} cannot be read: {exc}; delete {directory} and join again") from exc

    @classmethod
    def open(cls, directory: Path) -> NodeKey:
        """Read the key, or create it if there is none. Raises TrustError as `load` does."""
        path = directory / KEY_FILE
        if not path.exists():
            private_file.write(path, private_pem(ec.generate_private_key(ec.SECP256R1())))
        return cls.load(directory)

    @property
    def is_certified(self) -> bool:
        """Whether a cluster has issued a certificate for the key."""
        return (self.directory / CERTIFICATES_FILE).exists()

    @property
    def node_id(self) -> str:
        """The node's id, 16 hex digits."""
        return node_id_of(self.private_key.public_key())

    def certificate_request(self) -> bytes:
        """Return a PEM certificate request, which proves possession of the key; `proven_key` reads it."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.node_id)])
        request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(self.private_key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM)

    def adopt(self, certificate: bytes, ca_certificate: bytes) -> NodeIdentity:
        """Store the certificates (PEM), replacing older ones. Raises TrustError if they do not match the key."""
        identity = self.with_certificates(certificate + ca_certificate)
        private_file.write(self.directory / CERTIFICATES_FILE, certificate + ca_certificate)
        return identity

    def identity(self) -> NodeIdentity:
        """Read the certificates. Raises TrustError if they are missing or do not match the key."""
        path = self.directory / CERTIFICATES_FILE
        try:
            certificates = private_file.read(path)
        except OSError as exc:
            raise TrustError(
                f"this node has no certificate yet ({path}: {exc.strerror}); join a cluster first"
            ) from exc
        return self.with_certificates(certificates)

    def with_certificates(self, pem: bytes) -> NodeIdentity:
        """Return the identity made of the key and the node's and authority's certificates (PEM, in this order).

        Raises:
            TrustError: they do not match the key or each other.
        """
        try:
            certificate, ca_certificate = load_certificates(pem)
            certificate.verify_directly_issued_by(ca_certificate)
            if key_hash(certificate.public_key()) != key_hash(self.private_key.public_key()):
                raise ValueError("it is for another key")
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as exc:
            reason = "the authority did not sign it" if isinstance(exc, InvalidSignature) else exc
            raise TrustError(
                f"the certificate does not fit the key in {self.directory}: {reason}; "
                f"delete {self.directory / CERTIFICATES_FILE} and join again"
            ) from exc
        return NodeIdentity(
            self.node_id, private_pem(self.private_key), certificate_pem(certificate), certificate_pem(ca_certificate)
        )


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """The key and certificates with which a node authenticates itself and verifies others; all PEM."""

    node_id: str
    private_key: bytes = field(repr=False)
    certificate: bytes
    ca_certificate: bytes

    @property
    def authority_key_hash(self) -> str:
        """The hash of the authority's key, as in a join token."""
        return key_hash(x509.load_pem_x509_certificate(self.ca_certificate).public_key())

    @property
    def begins_at(self) -> datetime:
        """When the certificate becomes valid."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_before_utc

    @property
    def ends_at(self) -> datetime:
        """When the certificate ends."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def renewal_at(self, slack: timedelta) -> datetime:
        """Return when two thirds of the certificate's lifetime are over; it began `slack` after its beginning."""
        certificate = x509.load_pem_x509_certificate(self.certificate)
        begins, ends = certificate.not_valid_before_utc + slack, certificate.not_valid_after_utc
        return begins + (ends - begins) * 2 / 3

    @classmethod
    def load(cls, directory: Path) -> NodeIdentity:
        """Read a node's key and certificates. Raises TrustError."""
        return NodeKey.load(directory).identity()


class StoredIdentity:
    """A node's identity as it is on disk now: its certificate is renewed while processes use it."""

    def __init__(self, directory: Path, first: NodeIdentity | None = None) -> None:
        self._path = directory / CERTIFICATES_FILE
        self._stamp = self._stamp_now()
        self._identity = first if first is not None else NodeIdentity.load(directory)

    def __call__(self) -> NodeIdentity:
        """Return it; if the file is gone or damaged, the last that was read."""
        if (stamp := self._stamp_now()) != self._stamp:
            self._stamp = stamp
            with suppress(TrustError):
                self._identity = NodeIdentity.load(self._path.parent)
        return self._identity

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino


def node_id_of(public_key: ec.EllipticCurvePublicKey) -> str:
    """Return the id of the node with this key."""
    return key_hash(public_key)[:16]


@lru_cache(maxsize=256)
def certified_id(certificate: bytes) -> str:
    """Return the id of the node with this certificate (PEM), computed from its key.

    A certificate with the name of one key and another key, which only a keeper of the authority could make, is refused:
    nobody can take the id of another node.

    Raises:
        TrustError: the name is not that of the key.
    """
    loaded = x509.load_pem_x509_certificate(certificate)
    names = loaded.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    key = loaded.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or [name.value for name in names] != [node_id_of(key)]:
        raise TrustError("a certificate with a node id that is not of its key")
    return node_id_of(key)


def dns_name(node_id: str) -> str:
    """Return the DNS name in a node's certificate, which the TLS client checks."""
    return node_id + DOMAIN


def key_hash(public_key: CertificatePublicKeyTypes) -> str:
    """Return the SHA-256 of a public key (SubjectPublicKeyInfo, DER) in hex digits."""
    encoded = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def proven_key(certificate_request: bytes) -> ec.EllipticCurvePublicKey:
    """Return the key in a PEM certificate request; the request's names are ignored.

    Raises:
        TrustError: it is not a P-256 key, or the request is not signed with it.
    """
    try:
        request = x509.load_pem_x509_csr(certificate_request)
        public_key = request.public_key()
        # Checked before the signature: verifying one of a huge key of another kind would cost time.
        if not isinstance(public_key, ec.EllipticCurvePublicKey) or not isinstance(public_key.curve, ec.SECP256R1):
            raise ValueError("its key is not a P-256 key")
        if not request.is_signature_valid:
            raise ValueError("it is not signed with the key in it")
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as exc:
        raise TrustError(f"the certificate request is refused: {exc}") from exc
    return public_key


def load_private_key(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 key. Raises ValueError for anything else."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:  # TypeError: it has a password
        raise ValueError("it is not a private key in PEM form") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("it is not a P-256 key")
    return key


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the key as unencrypted PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Read one or more certificates. Raises ValueError."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as exc:
        raise ValueError("there are no certificates in PEM form") from exc


def certificate_pem(certificate: x509.Certificate) -> bytes:
    """Return the certificate as PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)

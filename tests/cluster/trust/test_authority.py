"""The authority's certificates, and the requests it refuses."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.errors import TrustError
from cluster.trust import Authority, NodeKey
from cluster.trust.identity import ANY_NODE, dns_name, node_id_of, proven_key
from tests.cluster.trust.first_node import FirstNode


def verify(first_node: FirstNode, certificate: bytes, name: str, at: datetime) -> None:
    """Verify as a TLS client with a strict reading of RFC 5280 would."""
    store = Store([x509.load_pem_x509_certificate(first_node.authority.certificate)])
    verifier = PolicyBuilder().store(store).time(at).build_server_verifier(x509.DNSName(name))
    verifier.verify(x509.load_pem_x509_certificate(certificate), [])


@pytest.mark.parametrize("hours", [-23, -1, 0, 1, 24 * 364])
def test_a_new_certificate_is_valid_for_a_year_and_for_a_clock_that_is_behind(
    first_node: FirstNode, hours: int
) -> None:
    identity = first_node.admit("node")
    at = datetime.now(UTC) + timedelta(hours=hours)
    verify(first_node, identity.certificate, dns_name(identity.node_id), at)


@pytest.mark.parametrize("days", [-2, 366])
def test_a_certificate_ends(first_node: FirstNode, days: int) -> None:
    identity = first_node.admit("node")
    with pytest.raises(VerificationError, match="not valid at validation time"):
        verify(first_node, identity.certificate, dns_name(identity.node_id), datetime.now(UTC) + timedelta(days=days))


def test_the_authority_is_the_same_after_a_restart(first_node: FirstNode) -> None:
    loaded = Authority.load(first_node.directory / "authority")
    assert loaded.key_hash == first_node.authority.key_hash
    assert loaded.certificate == first_node.authority.certificate
    identity = first_node.admit("node", loaded)
    verify(first_node, identity.certificate, dns_name(identity.node_id), datetime.now(UTC))


def test_a_second_authority_does_not_replace_the_first(first_node: FirstNode) -> None:
    with pytest.raises(TrustError, match="exists: this node holds the authority"):
        Authority.create(first_node.directory / "authority")


def test_a_missing_or_damaged_authority_is_refused(first_node: FirstNode, tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"authority\.pem cannot be read"):
        Authority.load(tmp_path)
    path = first_node.directory / "authority" / "authority.pem"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(TrustError, match=r"authority\.pem cannot be read"):
        Authority.load(path.parent)


def test_an_authority_that_others_may_read_is_refused(first_node: FirstNode) -> None:
    path = first_node.directory / "authority" / "authority.pem"
    path.chmod(0o660)
    with pytest.raises(TrustError, match="chmod 600"):
        Authority.load(path.parent)


def request(name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(dns_name(name))]), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("victim", ["node", "authority"])
def test_who_asks_for_the_id_of_another_key_gets_its_own(first_node: FirstNode, victim: str) -> None:
    wanted = first_node.admit(victim).node_id if victim == "node" else victim
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = x509.load_pem_x509_certificate(first_node.authority.certify(proven_key(request(wanted, key))))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [dns_name(node_id_of(key.public_key())), dns_name(ANY_NODE)]
    assert wanted not in certificate.subject.rfc4514_string()


def test_a_key_that_the_sender_does_not_have_is_refused(first_node: FirstNode) -> None:
    victim = NodeKey.open(first_node.directory / "victim").certificate_request()
    der = bytearray(x509.load_pem_x509_csr(victim).public_bytes(Encoding.DER))
    der[-1] ^= 1  # in the signature
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(TrustError, match="not signed with the key in it"):
        proven_key(forged)


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP384R1())],
    ids=["RSA", "P-384"],
)
def test_keys_of_other_kinds_are_refused(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    with pytest.raises(TrustError, match="not a P-256 key"):
        proven_key(request("node", key))


GOOD = request("node", ec.generate_private_key(ec.SECP256R1()))


@given(st.binary(max_size=200), st.integers(0, len(GOOD)))
@example(b"", 0)
@example(b"-----BEGIN CERTIFICATE REQUEST-----\nMAA=\n-----END CERTIFICATE REQUEST-----\n", 0)
def test_noise_is_refused(noise: bytes, place: int) -> None:
    with pytest.raises(TrustError, match="certificate request is refused"):
        proven_key(GOOD[:place][:-30] + noise)

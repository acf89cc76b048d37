"""A node's key and certificates on disk."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from cluster.errors import TrustError
from cluster.trust import NodeIdentity, NodeKey
from tests.cluster.trust.first_node import FirstNode


def test_a_key_is_made_once_and_gives_the_same_id_ever_after(tmp_path: Path) -> None:
    first, again = NodeKey.open(tmp_path / "a"), NodeKey.open(tmp_path / "a")
    assert first.node_id == again.node_id == NodeKey.load(tmp_path / "a").node_id
    assert len(bytes.fromhex(first.node_id)) == 8
    assert NodeKey.open(tmp_path / "b").node_id != first.node_id


def test_only_the_owner_may_read_the_files(first_node: FirstNode) -> None:
    first_node.admit("node")
    for directory, names in (("node", {"node.key", "certificates.pem"}), ("authority", {"authority.pem"})):
        path = first_node.directory / directory
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert {file.name for file in path.iterdir()} == names
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}


def test_a_key_that_others_may_read_is_refused_with_the_cure(tmp_path: Path) -> None:
    NodeKey.open(tmp_path)
    path = tmp_path / "node.key"
    path.chmod(0o604)
    with pytest.raises(TrustError, match=rf"{path} is open to other users \(mode 0604\); close it with: chmod 600"):
        NodeKey.open(tmp_path)


def test_no_key_is_an_error_that_makes_none(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match=r"node\.key cannot be read: .*No such file"):
        NodeIdentity.load(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["noise", "rsa", "P-384", "with a password"])
def test_a_damaged_or_foreign_key_is_refused_and_kept(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "node.key"
    path.touch(mode=0o600)
    if kind == "noise":
        path.write_bytes(b"-----BEGIN PRIVATE KEY-----\nnoise")
    else:
        key = rsa.generate_private_key(65537, 2048) if kind == "rsa" else ec.generate_private_key(ec.SECP384R1())
        secret = BestAvailableEncryption(b"secret") if kind == "with a password" else NoEncryption()
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret))
    content = path.read_bytes()
    with pytest.raises(TrustError, match=r"node\.key cannot be read"):
        NodeKey.open(tmp_path)
    assert path.read_bytes() == content


def test_an_identity_is_read_as_it_was_adopted(first_node: FirstNode) -> None:
    identity = first_node.admit("node")
    assert NodeIdentity.load(first_node.directory / "node") == identity


def test_a_key_without_certificates_is_told_to_join(tmp_path: Path) -> None:
    NodeKey.open(tmp_path)
    with pytest.raises(TrustError, match=r"has no certificate yet .* join a cluster first"):
        NodeIdentity.load(tmp_path)


def test_certificates_of_another_key_or_authority_are_not_adopted(first_node: FirstNode, tmp_path: Path) -> None:
    identity = first_node.admit("node")
    other = NodeKey.open(tmp_path / "other")
    with pytest.raises(TrustError, match=r"it is for another key; delete .* and join again"):
        other.adopt(identity.certificate, identity.ca_certificate)
    foreign = FirstNode(tmp_path / "foreign").authority
    certificate = foreign.certify(other.private_key.public_key())
    with pytest.raises(TrustError, match="the authority did not sign it"):
        other.adopt(certificate, identity.ca_certificate)
    with pytest.raises(TrustError, match="does not fit the key"):
        other.adopt(certificate, b"")
    assert not (tmp_path / "other" / "certificates.pem").exists()


def test_neither_str_nor_repr_shows_the_private_key(first_node: FirstNode) -> None:
    identity = first_node.admit("node")
    assert "PRIVATE" not in f"{identity} {identity!r}"

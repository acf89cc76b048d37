"""Certificates are renewed before they end, and ports and channels use the new one without a restart."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st

from cluster.daemon.renewing import keep_renewed
from cluster.errors import ClusterError, TrustError
from cluster.trust import Authority, MutualTLS, NodeIdentity, NodeKey, StoredIdentity, renew
from cluster.trust.authority import CLOCK_SLACK, LIFETIME
from cluster.trust.identity import certified_id, load_certificates
from tests.cluster.trust.first_node import FirstNode
from tests.cluster.trust.test_credentials import aio_ask, aio_server
from tests.patience import PATIENCE_S

AUTHORITY = Authority.new()


def issued_ago(first_node: FirstNode, age: timedelta, lifetime: timedelta | None = None) -> Authority:
    """Return the authority as it was some time ago."""
    return Authority.load(first_node.directory / "authority", lambda: datetime.now(UTC) - age, lifetime)


def admitted(first_node: FirstNode, name: str, age: timedelta) -> NodeKey:
    first_node.admit(name, issued_ago(first_node, age))
    return NodeKey.load(first_node.directory / name)


def test_a_certificate_is_renewed_after_two_thirds_of_its_lifetime(first_node: FirstNode) -> None:
    identity = first_node.admit("node")
    left = identity.renewal_at(CLOCK_SLACK) - datetime.now(UTC)
    assert abs(left - LIFETIME * 2 / 3) < timedelta(minutes=5)


@pytest.mark.parametrize("days", [0, 300, 366, 390])
def test_a_keeper_renews_also_what_ended_a_while_ago(first_node: FirstNode, days: int) -> None:
    key = admitted(first_node, "node", timedelta(days=days))

    async def use(address: str) -> None:
        renewed = await renew(["127.0.0.1:1", address], key, PATIENCE_S)
        assert renewed == NodeIdentity.load(key.directory)
        assert renewed.ends_at > datetime.now(UTC) + timedelta(days=360)
        assert renewed.node_id == key.node_id

    first_node.run(use)


def test_what_ended_long_ago_or_is_removed_or_of_another_key_is_not_renewed(first_node: FirstNode) -> None:
    old = admitted(first_node, "old", timedelta(days=400))
    removed = admitted(first_node, "removed", timedelta(0))
    first_node.removed.add([first_node.authority.remove(removed.node_id, "mac-9")])
    thief = admitted(first_node, "thief", timedelta(0))
    certificates = thief.directory / "certificates.pem"

    async def use(address: str) -> None:
        with pytest.raises(TrustError, match=r"refused to renew this node: .* ended too long ago: .*moe-cluster leave"):
            await renew([address], old, PATIENCE_S)
        with pytest.raises(TrustError, match="node mac-9 was removed from the cluster"):
            await renew([address], removed, PATIENCE_S)
        certificates.write_bytes((old.directory / "certificates.pem").read_bytes())
        with pytest.raises(TrustError, match="another key"):
            await renew([address], thief, PATIENCE_S)
        with pytest.raises(ClusterError, match="no node that keeps the cluster's authority is known"):
            await renew([], old, PATIENCE_S)

    first_node.run(use)


def test_another_keys_certificate_does_not_help_a_thief_at_the_port(first_node: FirstNode) -> None:
    victim, thief = first_node.admit("victim"), ec.generate_private_key(ec.SECP256R1()).public_key()
    (certificate,) = load_certificates(victim.certificate)
    own = NodeKey.load(first_node.directory / "victim").private_key.public_key()
    assert first_node.authority.may_renew(certificate, own)
    assert not first_node.authority.may_renew(certificate, thief)


def test_open_ports_and_new_channels_use_a_renewed_certificate(first_node: FirstNode) -> None:
    ended = timedelta(days=500)
    keys = {name: admitted(first_node, name, ended) for name in ("server", "client")}
    server, client = (MutualTLS(StoredIdentity(key.directory)) for key in keys.values())
    server_id = keys["server"].node_id

    async def use() -> None:
        async with aio_server(server) as target:
            for name, key in keys.items():
                before = client.generation
                with pytest.raises(grpc.aio.AioRpcError):
                    await aio_ask(client.aio_channel(target, server_id, (("grpc.use_local_subchannel_pool", 1),)))
                certificate = first_node.authority.certify(key.private_key.public_key())
                key.adopt(certificate, first_node.authority.certificate)
                assert (client.generation is before) == (name == "server")
            assert await aio_ask(client.aio_channel(target, server_id)) == keys["client"].node_id

    asyncio.run(use())


def test_a_node_renews_by_itself_again_and_again(first_node: FirstNode) -> None:
    first_node.authority = issued_ago(first_node, timedelta(0), timedelta(seconds=3))
    first_node.admit("node")
    key = NodeKey.load(first_node.directory / "node")
    seen = {key.identity().certificate}

    async def use(address: str) -> None:
        renewing = asyncio.create_task(keep_renewed(key, lambda: None, lambda: [address]))
        async with asyncio.timeout(PATIENCE_S):
            while len(seen) < 3:
                await asyncio.sleep(0.1)
                seen.add(key.identity().certificate)
        renewing.cancel()

    first_node.run(use)


def test_nobody_gets_the_id_of_another_key_not_even_from_a_keeper(first_node: FirstNode, tmp_path: Path) -> None:
    victim = first_node.admit("victim")
    assert certified_id(victim.certificate) == victim.node_id
    forger = Authority.load(first_node.directory / "authority")
    forged = _with_name_of(forger, victim.node_id, NodeKey.open(tmp_path).private_key.public_key())
    with pytest.raises(TrustError, match="not of its key"):
        certified_id(forged)


def _with_name_of(authority: Authority, node_id: str, key: ec.EllipticCurvePublicKey) -> bytes:
    """Return what a keeper that lies would sign: the name of one node, and another's key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cluster.trust.authority.node_id_of", lambda _: node_id)
        return authority.certify(key)


@given(st.binary(max_size=300), st.integers(0, 2000))
@example(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", 0)
def test_noise_in_place_of_a_certificate_or_an_authority_is_refused(noise: bytes, place: int) -> None:
    for good in (AUTHORITY.pem, AUTHORITY.certificate):
        mixed = good[:place] + noise + good[place + len(noise) :]
        with suppress(ValueError):
            assert Authority.read(mixed).pem
        with suppress(ValueError):
            for certificate in load_certificates(mixed):
                AUTHORITY.may_renew(certificate, ec.generate_private_key(ec.SECP256R1()).public_key())

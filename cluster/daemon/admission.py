"""Admission: the cluster that this node belongs to: one that it creates, joins, or has been a member of before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cluster.daemon.renewing import renew_now
from cluster.errors import ClusterError, TrustError
from cluster.home import Home
from cluster.membership.discovery import Announcement, look
from cluster.trust import (
    Authority,
    Credentials,
    Insecure,
    JoinToken,
    MutualTLS,
    NodeIdentity,
    NodeKey,
    RemovedNodes,
    StoredIdentity,
    join,
)
from cluster.trust.identity import CERTIFICATES_FILE

LOOK_S = 2.0
"""Longest time to wait for announcements: nodes that start at the same time see each other after 1.3 s."""

ID_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Admission:
    """This node's id and credentials; `authority` if it keeps the cluster's; `is_new` if it begins the cluster now.

    `removed` lists the nodes that were removed from the cluster; an insecure cluster has none, and no authority.
    `keep` writes a new cluster to disk. The caller calls it when the node is up: a start that fails creates no cluster.
    """

    node_id: str
    cluster_id: str
    credentials: Credentials
    authority: Authority | None = None
    authority_key_hash: str = ""
    removed: RemovedNodes | None = None
    is_new: bool = False
    keep: Callable[[], object] = lambda: None


async def admit(home: Home, token: str | None, peers: Sequence[str], *, insecure: bool, new: bool) -> Admission:
    """Return this node's admission; to a new cluster if it belongs to none and there is none on the network.

    Raises:
        TrustError: the token was refused, or the node belongs to another cluster already.
        ClusterError: there is a cluster but no token was given, or no node that could admit this one answers.
    """
    home.create()
    key = NodeKey.open(home.identity)
    if insecure:
        return Admission(key.node_id, "", Insecure(key.node_id))
    wanted = JoinToken.parse(token) if token is not None else None
    if key.is_certified:
        return await _member(home, key.identity(), wanted, peers)
    if wanted is not None:
        identity = await join(await _where_to_join(wanted, peers), wanted, home.identity)
        return await _member(home, identity, wanted, peers)
    # An authority without a certificate for its own node: the start was interrupted between the two, or one was lost.
    authority = Authority.load(home.authority) if Authority.is_in(home.authority) else Authority.new()
    if not new:
        await _require_no_cluster(besides=_cluster_id(authority.key_hash))
    return _founder(home, key, authority)


def is_member(home: Home) -> bool:
    """Whether the node of a home belongs to a cluster."""
    return (home.identity / CERTIFICATES_FILE).exists()


def _founder(home: Home, key: NodeKey, authority: Authority) -> Admission:
    certificate = authority.certify(key.private_key.public_key())
    identity = key.with_certificates(certificate + authority.certificate)

    def keep() -> None:
        authority.keep(home.authority)
        key.adopt(certificate, authority.certificate)  # last: it makes the node a member

    cluster_id = _cluster_id(authority.key_hash)
    removed = RemovedNodes(home.removed, authority.certificate)
    return Admission(
        *(identity.node_id, cluster_id, _credentials(home, identity), authority, authority.key_hash, removed),
        is_new=True,
        keep=keep,
    )


async def _member(home: Home, identity: NodeIdentity, wanted: JoinToken | None, peers: Sequence[str]) -> Admission:
    cluster = identity.authority_key_hash
    if wanted is not None and wanted.authority_key_hash != cluster:
        raise TrustError(
            f"this node belongs to cluster {_cluster_id(cluster)}, the token is of cluster "
            f"{_cluster_id(wanted.authority_key_hash)}: to change over, moe-cluster leave first"
        )
    authority = Authority.load(home.authority) if Authority.is_in(home.authority) else None
    if authority is not None and authority.key_hash != cluster:
        authority = None  # of a cluster that this node has left
    removed = RemovedNodes(home.removed, identity.ca_certificate)
    if (removal := removed.get(identity.node_id)) is not None:
        raise TrustError(removal.words)
    identity = await _valid(home, identity, authority, peers)
    credentials = _credentials(home, identity)
    return Admission(identity.node_id, _cluster_id(cluster), credentials, authority, cluster, removed)


async def _valid(home: Home, identity: NodeIdentity, authority: Authority | None, peers: Sequence[str]) -> NodeIdentity:
    """Return the identity; if its certificate has ended, with a new one. Raises TrustError if it gets none."""
    now = datetime.now(UTC)
    if now < identity.begins_at:
        raise TrustError(
            f"this machine's clock says {now:%Y-%m-%d %H:%M} UTC, but its certificate is valid from "
            f"{identity.begins_at:%Y-%m-%d %H:%M} UTC on: set the clock"
        )
    if now < identity.ends_at:
        return identity
    key = NodeKey.load(home.identity)
    try:
        keepers = [] if authority is not None else await _keepers(_cluster_id(identity.authority_key_hash), peers)
        await renew_now(key, authority, keepers)
    except ClusterError as exc:
        raise TrustError(
            f"this node's certificate ended on {identity.ends_at:%Y-%m-%d} by this machine's clock, and is not "
            f"renewed: {exc}. Check the date, and that a node that keeps the cluster's authority is up; or moe-cluster "
            "leave, then moe-cluster up --join - with a new token"
        ) from exc
    return key.identity()


async def _keepers(cluster_id: str, peers: Sequence[str]) -> Sequence[str]:
    """Return addresses where nodes may renew certificates: the given peers, and those that are announced."""
    _, keepers = await _look_for_keepers(cluster_id)
    return [*(address for node in keepers for address in node.addresses), *peers]


def _credentials(home: Home, identity: NodeIdentity) -> MutualTLS:
    return MutualTLS(StoredIdentity(home.identity, identity))


def _cluster_id(authority_key_hash: str) -> str:
    return authority_key_hash[:ID_DIGITS]


async def _where_to_join(token: JoinToken, peers: Sequence[str]) -> Sequence[str]:
    """Return the addresses to try: the given peers, or announced nodes of the token's cluster. Raises ClusterError."""
    if peers:
        return peers
    wanted = _cluster_id(token.authority_key_hash)
    found, keepers = await _look_for_keepers(wanted)
    addresses = [address for node in keepers for address in node.addresses]
    if not addresses:
        others = {node.cluster_id for node in found} - {wanted, ""}
        raise ClusterError(
            f"no node of the token's cluster {wanted} was found within {LOOK_S:g} s"
            + (f", only nodes of {', '.join(sorted(others))}" if others else "")
            + ": is its first node up, or another that keeps its authority? Where there is no multicast, add --peer "
            "HOST:PORT of that node"
        )
    return addresses


async def keeper(identity: NodeIdentity) -> str:
    """Return name and address of a node that keeps the authority of a node's cluster, "" if none announces itself."""
    _, keepers = await _look_for_keepers(_cluster_id(identity.authority_key_hash))
    return f"{keepers[0].name} ({keepers[0].addresses[0]})" if keepers else ""


async def _look_for_keepers(cluster_id: str) -> tuple[Sequence[Announcement], Sequence[Announcement]]:
    """Return the nodes that announce themselves, and those among them that admit nodes to a cluster."""

    def lets_in(node: Announcement) -> bool:
        return node.cluster_id == cluster_id and node.enrols

    found = await look(LOOK_S, lets_in)
    return found, list(filter(lets_in, found))


async def _require_no_cluster(besides: str) -> None:
    def is_of_another(node: Announcement) -> bool:
        return node.cluster_id not in ("", besides)

    if clusters := list(filter(is_of_another, await look(LOOK_S, is_of_another))):
        raise ClusterError(
            f"{clusters[0].name} ({clusters[0].addresses[0]}) already runs a cluster in this network; to join it, type "
            "moe-cluster token create there and moe-cluster up --join - here; moe-cluster up --new starts another one"
        )

"""Join tokens of this machine's cluster. Works on the files of a home, whether its node is up or not."""

from __future__ import annotations

import asyncio

from cluster.daemon.admission import is_member, keeper
from cluster.errors import ClusterError, NoClusterError
from cluster.home import Home
from cluster.trust import Authority, JoinToken, NodeIdentity, StoredToken, TokenStore
from cluster.trust.token_store import LIFETIME_S

__all__ = ["LIFETIME_S", "JoinToken", "StoredToken", "TokenStore", "holds_authority", "is_member", "join_tokens"]


def holds_authority(home: Home) -> bool:
    """Whether a home's node can admit nodes to its cluster."""
    return Authority.is_in(home.authority)


def join_tokens(home: Home) -> TokenStore:
    """Return the tokens of the cluster of a home's node, which keeps its authority.

    Raises:
        NoClusterError: it is in none.
        ClusterError: only other nodes keep the authority.
    """
    if not is_member(home):
        raise NoClusterError("this machine is in no cluster yet: moe-cluster up begins one or joins one")
    identity = NodeIdentity.load(home.identity)
    key_hash = identity.authority_key_hash
    authority = Authority.load(home.authority) if holds_authority(home) else None
    if authority is None or authority.key_hash != key_hash:
        first = asyncio.run(keeper(identity))
        raise ClusterError(
            "only nodes that keep the cluster's authority make tokens, as the first node does; this one does not: type "
            f"moe-cluster token on {first or 'one of those (moe-cluster nodes lists them)'}"
        )
    return TokenStore(home.tokens, key_hash)

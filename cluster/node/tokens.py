"""Join tokens of this machine's cluster. Works on the files of a home, whether its node is up or not."""

from __future__ import annotations

import asyncio

from cluster.daemon.admission import first_node, is_member
from cluster.errors import ClusterError, NoClusterError
from cluster.home import Home
from cluster.trust import Authority, JoinToken, NodeIdentity, StoredToken, TokenStore
from cluster.trust.token_store import LIFETIME_S

__all__ = ["LIFETIME_S", "JoinToken", "StoredToken", "TokenStore", "holds_authority", "is_member", "join_tokens"]


def holds_authority(home: Home) -> bool:
    """Whether a home's node can admit nodes to its cluster."""
    return Authority.is_in(home.authority)


def join_tokens(home: Home) -> TokenStore:
    """Return the tokens of the cluster that a home's node began.

    Raises:
        NoClusterError: it is in none.
        ClusterError: another node began it.
    """
    if not is_member(home):
        raise NoClusterError("this machine is in no cluster yet: moe-cluster up begins one or joins one")
    identity = NodeIdentity.load(home.identity)
    key_hash = identity.authority_key_hash
    authority = Authority.load(home.authority) if holds_authority(home) else None
    if authority is None or authority.key_hash != key_hash:
        first = asyncio.run(first_node(identity))
        raise ClusterError(
            "only the node that began the cluster makes tokens, and this one joined it: type moe-cluster token on "
            f"{first or 'that node'}"
        )
    return TokenStore(home.tokens, key_hash)

"""Trust: decides who may join a cluster, and authenticates its nodes to each other.

The first node creates the `Authority`, issues join tokens, and gives copies of both to further nodes. A machine that
joins checks the authority's key, then proves only that it has a token, and receives a certificate for its own key. From
then on it opens every port and channel through `Credentials`, until it is removed.
"""

from cluster.trust.authority import Authority
from cluster.trust.credentials import CHANNEL_OPTIONS, SERVER_OPTIONS, Credentials, Insecure, MutualTLS, max_message
from cluster.trust.identity import NodeIdentity, NodeKey, StoredIdentity
from cluster.trust.join_token import JoinToken
from cluster.trust.joining import join, renew
from cluster.trust.removal import Removal, RemovedNodes
from cluster.trust.token_store import Issued, StoredToken, TokenStore

__all__ = [
    "CHANNEL_OPTIONS",
    "SERVER_OPTIONS",
    "Authority",
    "Credentials",
    "Insecure",
    "Issued",
    "JoinToken",
    "MutualTLS",
    "NodeIdentity",
    "NodeKey",
    "Removal",
    "RemovedNodes",
    "StoredIdentity",
    "StoredToken",
    "TokenStore",
    "join",
    "max_message",
    "renew",
]

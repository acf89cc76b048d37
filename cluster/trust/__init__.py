"""Trust: decides who may join a cluster, and authenticates its nodes to each other.

The first node creates the `Authority` and issues join tokens. A machine that joins checks the authority's key, then
proves only that it has a token, and receives a certificate for its own key. From then on it opens every port and
channel through `Credentials`.
"""

from cluster.trust.authority import Authority
from cluster.trust.credentials import CHANNEL_OPTIONS, SERVER_OPTIONS, Credentials, Insecure, MutualTLS, max_message
from cluster.trust.identity import NodeIdentity, NodeKey
from cluster.trust.join_token import JoinToken
from cluster.trust.joining import join
from cluster.trust.token_store import StoredToken, TokenStore

__all__ = [
    "CHANNEL_OPTIONS",
    "SERVER_OPTIONS",
    "Authority",
    "Credentials",
    "Insecure",
    "JoinToken",
    "MutualTLS",
    "NodeIdentity",
    "NodeKey",
    "StoredToken",
    "TokenStore",
    "join",
    "max_message",
]

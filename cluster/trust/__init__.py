"""Trust: who may come into a cluster, and how its nodes know each other afterwards.

The first node makes the `Authority` and gives out join tokens. A machine with a token proves nothing but that it has
it, and checks the authority's key before it does; it gets a certificate for its own key, and from then on every port
and channel is opened through `Credentials`.
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

"""Authority messages: what keepers tell each other, and removals, to and from the wire. Parsed here, once."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.errors import TrustError
from cluster.membership.node_info import is_name, is_node_id
from cluster.trust import Issued, Removal, StoredToken
from cluster.wire import node_pb2 as pb


def copy_message(issued: Issued, authority: bytes = b"") -> pb.AuthorityCopy:
    """Return what a keeper tells another one; `authority` (PEM) proves that it is one."""
    tokens = (
        pb.IssuedToken(
            secret_hash=token.secret_hash,
            expires_at_s=token.expires_at_s,
            max_uses=token.max_uses,
            used_by=token.used_by,
            revoked=token.revoked,
            guest=token.guest,
            made_at_s=token.made_at_s,
        )
        for token in issued.tokens
    )
    return pb.AuthorityCopy(authority=authority, tokens=tokens, keepers=issued.keepers)


def issued_from(message: pb.AuthorityCopy) -> Issued:
    """Return what another keeper knows. Raises TrustError for values that cannot be."""
    try:
        tokens = tuple(
            StoredToken(t.secret_hash, t.expires_at_s, t.max_uses, tuple(t.used_by), t.revoked, t.guest, t.made_at_s)
            for t in message.tokens
        )
    except TypeError as exc:
        raise TrustError(f"a keeper of the authority sent tokens that cannot be: {exc}") from exc
    if not all(map(is_node_id, (*message.keepers, *(i for token in tokens for i in token.used_by)))):
        raise TrustError("a keeper of the authority named nodes that cannot be")
    return Issued(tokens, tuple(message.keepers))


def removal_messages(removals: Iterable[Removal]) -> list[pb.Removal]:
    """Return removals as they are sent."""
    return [pb.Removal(node_id=r.node_id, name=r.name, at_s=r.at_s, signature=r.signature) for r in removals]


def removals_from(messages: Iterable[pb.Removal]) -> list[Removal]:
    """Return the removals that another node knows, without those that cannot be; their signatures are unchecked."""
    return [
        Removal(m.node_id, m.name, m.at_s, m.signature) for m in messages if is_node_id(m.node_id) and is_name(m.name)
    ]

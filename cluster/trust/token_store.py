"""Token store: the join tokens of a cluster, and which nodes keep its authority; a private file on each keeper.

The file has hashes instead of secrets: reading it is not enough to join. The daemon and the command line share it.
Keepers merge what each of them did: nothing in it is ever taken back, so the order does not matter.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cluster.errors import TrustError
from cluster.lock import held
from cluster.trust import private_file
from cluster.trust.join_token import JoinToken

LIFETIME_S = 24 * 3600.0
MAX_USES = 32  # one line is typed on several Macs

LOCK_S = 2.0
"""How long to wait for another process that changes the file, which takes milliseconds."""


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token that was issued. Times are Unix time, because they outlive the process.

    `guest`: the nodes that join with it never keep the authority.
    """

    secret_hash: str
    expires_at_s: float
    max_uses: int
    used_by: tuple[str, ...] = ()
    revoked: bool = False
    guest: bool = False
    made_at_s: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.secret_hash, str) or not all(isinstance(i, str) for i in self.used_by):
            raise TypeError("a token without a hash")
        if not isinstance(self.max_uses, int) or not isinstance(self.expires_at_s, int | float):
            raise TypeError("a token without an end")
        if not isinstance(self.made_at_s, int | float):
            raise TypeError("a token without a beginning")

    @property
    def token_id(self) -> str:
        """A short name for people, which does not reveal the secret."""
        return self.secret_hash[:8]

    def refusal(self, node_id: str, now_s: float) -> str | None:
        """Return why the node may not join with this token, None if it may.

        A node that has joined with it may use it again, since the reply may have been lost.
        """
        if self.revoked:
            return "revoked"
        if now_s >= self.expires_at_s:
            return "expired"
        if len(self.used_by) >= self.max_uses and node_id not in self.used_by:
            return f"used up by {self.max_uses} nodes"
        return None

    def merged(self, other: StoredToken) -> StoredToken:
        """Return the token after what two keepers know of it."""
        used_by = tuple(dict.fromkeys(self.used_by + other.used_by))
        return replace(
            self,
            expires_at_s=min(self.expires_at_s, other.expires_at_s),
            max_uses=min(self.max_uses, other.max_uses),
            used_by=used_by,
            revoked=self.revoked or other.revoked,
            guest=self.guest or other.guest,
        )


@dataclass(frozen=True, slots=True)
class Issued:
    """All that keepers share: the tokens, oldest first, and the ids of the nodes that have ever kept the authority."""

    tokens: tuple[StoredToken, ...] = ()
    keepers: tuple[str, ...] = ()

    def merged(self, other: Issued) -> Issued:
        """Return what both know."""
        tokens = {token.secret_hash: token for token in self.tokens}
        for token in other.tokens:
            known = tokens.get(token.secret_hash)
            tokens[token.secret_hash] = token if known is None else known.merged(token)
        oldest_first = sorted(tokens.values(), key=lambda token: (token.made_at_s, token.secret_hash))
        return Issued(tuple(oldest_first), tuple(dict.fromkeys(self.keepers + other.keepers)))

    @property
    def trusted(self) -> tuple[str, ...]:
        """The nodes that joined with a token that was not for guests."""
        return tuple(dict.fromkeys(i for token in self.tokens if not token.guest for i in token.used_by))


class TokenStore:
    """The tokens in one file, which the daemon and the command line share: each method reads and writes it again.

    Methods that change the file block their thread for up to LOCK_S, and raise ClusterError if another process holds
    the lock for longer.
    """

    def __init__(self, path: Path, authority_key_hash: str, now_s: Callable[[], float] = time.time) -> None:
        self._path = path
        self._authority_key_hash = authority_key_hash
        self._now_s = now_s

    @property
    def tokens(self) -> tuple[StoredToken, ...]:
        """The tokens, oldest first; expired ones that were never used stay until the next token is made."""
        return self.issued.tokens

    @property
    def issued(self) -> Issued:
        """The tokens and the keepers."""
        return _read(self._path)

    def create(self, lifetime_s: float = LIFETIME_S, max_uses: int = MAX_USES, *, guest: bool = False) -> JoinToken:
        """Make a token, and delete those that have expired without being used."""
        token = JoinToken(self._authority_key_hash, secrets.token_urlsafe(24))
        now_s = self._now_s()
        stored = StoredToken(_hash(token.secret), now_s + lifetime_s, max_uses, guest=guest, made_at_s=now_s)
        with self._alone() as issued:
            kept = self._pruned(issued)
            self._write(replace(kept, tokens=(*kept.tokens, stored)))
        return token

    def merge(self, other: Issued) -> Issued:
        """Add what another keeper knows; return all that is known then."""
        with self._alone() as issued:
            merged = self._pruned(issued.merged(other))
            if merged != issued:
                self._write(merged)
        return merged

    def revoke(self, token_id: str) -> None:
        """Refuse this token from now on. Raises TrustError for an unknown id."""
        with self._alone() as issued:
            tokens = issued.tokens
            if token_id not in {token.token_id for token in tokens}:
                known = ", ".join(token.token_id for token in tokens) or "none"
                raise TrustError(f"there is no join token {token_id}; join tokens are: {known}")
            revoked = (replace(token, revoked=True) if token.token_id == token_id else token for token in tokens)
            self._write(replace(issued, tokens=tuple(revoked)))

    def redeem(self, secret: str, node_id: str) -> None:
        """Record that a node joins with a token.

        Raises:
            TrustError: the token is not valid; the reason must not be sent to the caller.
        """
        with self._alone() as issued:
            by_hash = {token.secret_hash: token for token in issued.tokens}
            token = by_hash.get(_hash(secret))
            if token is None:
                raise TrustError("unknown join token")
            reason = token.refusal(node_id, self._now_s())
            if reason is not None:
                raise TrustError(f"join token {token.token_id} is {reason}")
            if node_id not in token.used_by:
                by_hash[token.secret_hash] = replace(token, used_by=(*token.used_by, node_id))
                self._write(replace(issued, tokens=tuple(by_hash.values())))

    def _pruned(self, issued: Issued) -> Issued:
        """Return it without the tokens that have expired without being used."""
        now_s = self._now_s()
        return replace(issued, tokens=tuple(t for t in issued.tokens if t.expires_at_s > now_s or t.used_by))

    @contextmanager
    def _alone(self) -> Iterator[Issued]:
        """Hold the file's lock, so that no other process changes it; yields its content."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with held(self._path.with_suffix(".lock"), LOCK_S):
            yield self.issued

    def _write(self, issued: Issued) -> None:
        private_file.write(self._path, json.dumps(asdict(issued), indent=1).encode())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(path: Path) -> Issued:
    if not path.exists():
        return Issued()
    try:
        value = json.loads(private_file.read(path))
        value = {"tokens": value, "keepers": []} if isinstance(value, list) else value  # as before there were keepers
        tokens = (StoredToken(**{**entry, "used_by": tuple(entry["used_by"])}) for entry in value["tokens"])
        return Issued(tuple(tokens), tuple(str(keeper) for keeper in value["keepers"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
        raise TrustError(f"the join tokens in {path} cannot be read ({exc}); delete it and make new tokens") from exc

"""Token store: the join tokens that the authority's node has issued, in a private file.

The file has hashes instead of secrets: reading it is not enough to join. The daemon and the command line share it.
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
    """A token that was issued. Times are Unix time, because they outlive the process."""

    secret_hash: str
    expires_at_s: float
    max_uses: int
    used_by: tuple[str, ...] = ()
    revoked: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.secret_hash, str) or not all(isinstance(i, str) for i in self.used_by):
            raise TypeError("a token without a hash")
        if not isinstance(self.max_uses, int) or not isinstance(self.expires_at_s, int | float):
            raise TypeError("a token without an end")

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
        return _read(self._path)

    def create(self, lifetime_s: float = LIFETIME_S, max_uses: int = MAX_USES) -> JoinToken:
        """Make a token, and delete those that have expired without being used."""
        token = JoinToken(self._authority_key_hash, secrets.token_urlsafe(24))
        now_s = self._now_s()
        stored = StoredToken(_hash(token.secret), now_s + lifetime_s, max_uses)
        with self._alone():
            self._write(*(old for old in self.tokens if old.expires_at_s > now_s or old.used_by), stored)
        return token

    def revoke(self, token_id: str) -> None:
        """Refuse this token from now on. Raises TrustError for an unknown id."""
        with self._alone():
            tokens = self.tokens
            if token_id not in {token.token_id for token in tokens}:
                known = ", ".join(token.token_id for token in tokens) or "none"
                raise TrustError(f"there is no join token {token_id}; join tokens are: {known}")
            self._write(*(replace(token, revoked=True) if token.token_id == token_id else token for token in tokens))

    def redeem(self, secret: str, node_id: str) -> None:
        """Record that a node joins with a token.

        Raises:
            TrustError: the token is not valid; the reason must not be sent to the caller.
        """
        with self._alone():
            by_hash = {token.secret_hash: token for token in self.tokens}
            token = by_hash.get(_hash(secret))
            if token is None:
                raise TrustError("unknown join token")
            reason = token.refusal(node_id, self._now_s())
            if reason is not None:
                raise TrustError(f"join token {token.token_id} is {reason}")
            if node_id not in token.used_by:
                by_hash[token.secret_hash] = replace(token, used_by=(*token.used_by, node_id))
                self._write(*by_hash.values())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the file's lock, so that no other process changes it."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with held(self._path.with_suffix(".lock"), LOCK_S):
            yield

    def _write(self, *tokens: StoredToken) -> None:
        private_file.write(self._path, json.dumps([asdict(token) for token in tokens], indent=1).encode())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(path: Path) -> tuple[StoredToken, ...]:
    if not path.exists():
        return ()
    try:
        entries = json.loads(private_file.read(path))
        return tuple(StoredToken(**{**entry, "used_by": tuple(entry["used_by"])}) for entry in entries)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as exc:
        raise TrustError(f"the join tokens in {path} cannot be read ({exc}); delete it and make new tokens") from exc

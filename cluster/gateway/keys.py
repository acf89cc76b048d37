"""Keys: the API keys of the gateway, by name, in a private file that has their hashes alone."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.errors import ClusterError
from cluster.lock import held
from cluster.trust import private_file
from mlx_moe.errors import InvalidRequestError

PREFIX = "moe-"
LOCK_S = 2.0
MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key that was made. `created_at` is Unix time."""

    name: str
    digest: str
    created_at: float


class Keys:
    """The keys in one file, which gateway and command line share: the gateway reads it again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._keys: tuple[StoredKey, ...] = ()

    def all(self) -> tuple[StoredKey, ...]:
        """Return the keys, oldest first.

        Raises:
            ClusterError: the file is damaged.
            TrustError: others may read it.
        """
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._stamp, self._keys = None, ()
            return self._keys
        if self._stamp != (stamp := (stat.st_mtime_ns, stat.st_ino)):
            try:
                self._keys = tuple(StoredKey(**key) for key in json.loads(private_file.read(self._path)))
            except (ValueError, TypeError, OSError) as exc:
                raise ClusterError(f"{self._path} cannot be read ({exc}): delete it, and make new keys") from exc
            self._stamp = stamp
        return self._keys

    def create(self, name: str) -> str:
        """Make a key and return it; it is shown this once.

        Raises:
            InvalidRequestError: the name is taken or unusable.
        """
        if not (name.isprintable() and 1 <= len(name.strip()) <= MAX_NAME):
            raise InvalidRequestError(f"the name of a key must have 1 to {MAX_NAME} printable characters")
        key = PREFIX + secrets.token_urlsafe(32)
        with held(self._path.with_suffix(".lock"), LOCK_S):
            keys = self.all()
            if any(known.name == name for known in keys):
                raise InvalidRequestError(f"there is a key {name!r} already: moe-cluster key revoke {name} ends it")
            self._write((*keys, StoredKey(name, _digest(key), time.time())))
        return key

    def revoke(self, name: str) -> None:
        """Delete a key: it is refused from now on. Raises InvalidRequestError if there is none of this name."""
        with held(self._path.with_suffix(".lock"), LOCK_S):
            keys = self.all()
            if not any(key.name == name for key in keys):
                known = ", ".join(key.name for key in keys) or "none"
                raise InvalidRequestError(f"there is no key {name!r}; the keys are: {known}")
            self._write(tuple(key for key in keys if key.name != name))

    def owner(self, key: str) -> str | None:
        """Return the name of a key, None if it is unknown or revoked."""
        digest, found = _digest(key), None
        for known in self.all():  # all of them, so that the time says nothing
            if hmac.compare_digest(known.digest, digest):
                found = known.name
        return found

    def _write(self, keys: tuple[StoredKey, ...]) -> None:
        private_file.write(self._path, json.dumps([asdict(key) for key in keys]).encode())


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()

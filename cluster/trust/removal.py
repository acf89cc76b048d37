"""Removal: that a node is removed from its cluster, signed by the authority; and the list of all removals on disk.

A removal is never taken back: a machine that comes again joins with another key, and so with another node id. So lists
of several nodes are merged by adding, in any order, and only keepers of the authority can add to them. The daemon
writes the file; its worker reads it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from cluster.errors import TrustError
from cluster.membership.membership import JOIN_ANEW
from cluster.trust import private_file

MAX_REMOVALS = 256
MAX_UNKNOWN = 16
"""Unknown removals that are checked in one message: a signature takes 0.1 ms."""

_PURPOSE = b"moe-cluster removal 1"  # no certificate begins like this: the same key signs those too


@dataclass(frozen=True, slots=True)
class Removal:
    """A node that is removed, the name that people knew it by, and since when (Unix time)."""

    node_id: str
    name: str
    at_s: int
    signature: bytes

    @staticmethod
    def signed_bytes(node_id: str, name: str, at_s: int) -> bytes:
        """Return what the authority signs; the name comes last, since it may contain anything."""
        return b"\0".join((_PURPOSE, node_id.encode(), str(at_s).encode(), name.encode()))

    def is_signed_by(self, authority: x509.Certificate) -> bool:
        """Whether the authority of this certificate signed it."""
        key = authority.public_key()
        try:
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(self.signature, self.signed_bytes(self.node_id, self.name, self.at_s), ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            return False
        return True

    @property
    def words(self) -> str:
        """What to tell people, on the removed node too."""
        day = f"{datetime.fromtimestamp(self.at_s):%Y-%m-%d}"
        return f"node {self.name} was removed from the cluster on {day}: {JOIN_ANEW}"


class RemovedNodes:
    """The removals that this node knows, in a file. One process adds to it; others see that it has changed."""

    def __init__(self, path: Path, authority_certificate: bytes) -> None:
        self._path = path
        self._authority = x509.load_pem_x509_certificate(authority_certificate)
        self._stamp: tuple[int, int] | None = None
        self._removals: dict[str, Removal] = {}

    def __contains__(self, node_id: str) -> bool:
        """Whether a node is removed."""
        return self.get(node_id) is not None

    def get(self, node_id: str) -> Removal | None:
        """Return a node's removal, if any. Raises TrustError if the file cannot be read."""
        self._read()
        return self._removals.get(node_id)

    def all(self) -> tuple[Removal, ...]:
        """Return the removals, oldest first. Raises TrustError if the file cannot be read."""
        self._read()
        return tuple(self._removals.values())

    def add(self, heard: Iterable[Removal]) -> tuple[Removal, ...]:
        """Store those that are unknown and signed by the authority; return them. Raises ClusterError."""
        self._read()
        unknown = [removal for removal in heard if removal.node_id not in self._removals][:MAX_UNKNOWN]
        room = MAX_REMOVALS - len(self._removals)
        new = tuple(removal for removal in unknown if removal.is_signed_by(self._authority))[:room]
        if new:
            self._removals.update({removal.node_id: removal for removal in new})
            private_file.write(self._path, json.dumps([_to_json(r) for r in self._removals.values()]).encode())
            self._stamp = self._stamp_now()
        return new

    def _read(self) -> None:
        if (stamp := self._stamp_now()) == self._stamp:
            return
        try:
            entries = [] if stamp is None else json.loads(private_file.read(self._path))
            self._removals = {entry["node_id"]: _from_json(entry) for entry in entries}
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as exc:
            raise TrustError(
                f"the list of removed nodes {self._path} cannot be read ({exc}): delete it; other nodes tell it again"
            ) from exc
        self._stamp = stamp

    def _stamp_now(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return None
        return status.st_mtime_ns, status.st_ino


def _to_json(removal: Removal) -> dict[str, object]:
    signature = base64.b64encode(removal.signature).decode()
    return {"node_id": removal.node_id, "name": removal.name, "at_s": removal.at_s, "signature": signature}


def _from_json(entry: dict[str, object]) -> Removal:
    signature = base64.b64decode(str(entry["signature"]), validate=True)
    return Removal(str(entry["node_id"]), str(entry["name"]), int(str(entry["at_s"])), signature)

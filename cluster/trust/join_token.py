"""Join token: the text with which a Mac joins a cluster. It identifies the authority and contains a secret."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from cluster.errors import TrustError

_TEXT = re.compile(r"MC1([0-9a-f]{64})::([A-Za-z0-9_-]{32})")


@dataclass(frozen=True, slots=True)
class JoinToken:
    """The SHA-256 of the authority's public key in hex digits, and a secret of 192 bits in URL-safe characters.

    Only `text` contains the secret; `str` and `repr` do not.
    """

    authority_key_hash: str
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        """The token as people type it."""
        return f"MC1{self.authority_key_hash}::{self.secret}"

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Parse a typed token. Raises TrustError, whose message does not contain it."""
        match = _TEXT.fullmatch(text.strip())
        if match is None:
            raise TrustError(
                f"this is not a whole join token ({len(text.strip())} characters): one looks like MC1, 64 hex digits, "
                "two colons and 32 more characters; copy it again, all of one line"
            )
        return cls(match[1], match[2])

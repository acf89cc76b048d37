"""A cluster's first node without its daemon: the authority, its tokens, and nodes that it has certified."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cluster.trust import Authority, JoinToken, NodeIdentity, NodeKey, RemovedNodes, TokenStore, enrolment, join
from tests.patience import PATIENCE_S


class FirstNode:
    """An authority and its token store. The clocks of tokens and of failures stand still until a test moves them."""

    def __init__(self, directory: Path, hours_ahead: int = 0) -> None:
        def now() -> datetime:
            return datetime.now(UTC) + timedelta(hours=hours_ahead)

        self.directory = directory
        self.authority = Authority.create(directory / "authority", now)
        self.unix_s = 1e9
        self.monotonic_s = 1000.0
        self.tokens = TokenStore(directory / "tokens.json", self.authority.key_hash, lambda: self.unix_s)

        self.removed = RemovedNodes(directory / "removed.json", self.authority.certificate)

    def admit(self, name: str, authority: Authority | None = None) -> NodeIdentity:
        """Certify a node without a token."""
        authority = authority or self.authority
        key = NodeKey.open(self.directory / name)
        return key.adopt(authority.certify(key.private_key.public_key()), authority.certificate)

    def run(self, use: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        """Open the enrolment port and use the address of the node that would have it, in an event loop of their own."""

        async def serve() -> None:
            served = enrolment.serve(
                self.authority, self.tokens, self.removed, ["127.0.0.1:0"], lambda: self.monotonic_s
            )
            async with served as port, asyncio.timeout(PATIENCE_S):
                await use(f"127.0.0.1:{port - 1}")

        asyncio.run(serve())

    async def join(self, address: str, token: JoinToken, name: str) -> NodeIdentity:
        """Join as a node of this name."""
        return await join([address], token, self.directory / name, timeout_s=PATIENCE_S)

"""Renewing: gets a new certificate for this node when two thirds of the old one's lifetime are over.

Ports and channels take it from the file, see `StoredIdentity`, without a restart.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from cluster.errors import ClusterError
from cluster.trust import Authority, NodeKey, renew
from cluster.trust.authority import CLOCK_SLACK

log = logging.getLogger(__name__)

LOOK_S = 60.0
"""Longest sleep: a Mac that sleeps does not count the time."""

TRIES = 20
"""How often it is tried in the third of the lifetime that is left, at least once a minute."""


async def keep_renewed(
    key: NodeKey, authority: Callable[[], Authority | None], keepers: Callable[[], Sequence[str]]
) -> None:
    """Renew a node's certificate in time, until cancelled: by itself if it keeps the authority, else by a keeper."""
    while True:
        identity = key.identity()
        now, due = datetime.now(UTC), identity.renewal_at(CLOCK_SLACK)
        if now < due:
            await asyncio.sleep(min(LOOK_S, (due - now).total_seconds()))
            continue
        try:
            await renew_now(key, authority(), keepers())
            log.info("event=certificate_renewed ends=%s", f"{key.identity().ends_at:%Y-%m-%d}")
        except ClusterError as exc:
            left_s = (identity.ends_at - due).total_seconds()
            log.warning("event=certificate_not_renewed ends=%s error=%s", f"{identity.ends_at:%Y-%m-%d}", exc)
            await asyncio.sleep(min(LOOK_S, left_s / TRIES))


async def renew_now(key: NodeKey, authority: Authority | None, keepers: Sequence[str]) -> None:
    """Renew a node's certificate. Raises ClusterError."""
    if authority is not None:
        certificate = authority.certify(key.private_key.public_key())
        await asyncio.to_thread(key.adopt, certificate, key.identity().ca_certificate)
    else:
        await renew(keepers, key)

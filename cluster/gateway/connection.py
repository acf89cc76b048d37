"""Connection: one client's connection; how many there may be, and how long one may stand without a request.

A connection waits until a whole request has arrived. Where there are too many, the one that has waited longest gives
way to the new one: whoever sends whole requests is answered, whatever others begin and do not finish.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Sequence

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
"""How long the head of a request may take, and the rest of a body that nobody reads."""

MOST_CONNECTIONS = 1024
PER_ADDRESS = 512
"""More than the requests that are answered or wait, since all programs of a person come from loopback."""


class Connection(H11Protocol):
    """uvicorn's connection with these limits. If no other gives way to it, its requests are marked `is_crowded`.

    Attributes:
        address: what counts as one client.
        waits_since: when it began to wait for a whole request; None while one is answered.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room for this connection, and wait for its first request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self.address = _network_of(self.client[0] if self.client else "")
        self.waits_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        same = [one for one in self._others() if one.address == self.address]
        self._is_crowded = not (_has_room(same, PER_ADDRESS) and _has_room(self._others(), MOST_CONNECTIONS))
        self.app_state = {**self.app_state, "is_crowded": self._is_crowded}
        self._note_state()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the wait."""
        self._end_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; a byte more does not prolong the wait."""
        super().data_received(data)
        self._note_state()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._note_state()

    def _others(self) -> list[Connection]:
        return [one for one in self.connections if isinstance(one, Connection) and one is not self]

    def _note_state(self) -> None:
        """Note whether it waits for a request; the time for a body is the application's to limit."""
        if self.cycle is None or self.cycle.response_complete:
            if self.waits_since is None:
                self.waits_since = self.loop.time()
            if self._timer is None:
                self._timer = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)
            return
        self._end_timer()
        if self._is_crowded:
            self.cycle.keep_alive = False
        if not self.cycle.more_body:
            self.waits_since = None

    def _end_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def give_way(self) -> None:
        """End at once."""
        self.connections.discard(self)  # more may come before the loop reports that it is lost
        self.transport.abort()


def _has_room(connections: Sequence[Connection], most: int) -> bool:
    """Return whether there are less than `most`, after one that waits for a request gave way if there were not."""
    if len(connections) < most:
        return True
    waiting = [(one.waits_since, n) for n, one in enumerate(connections) if one.waits_since is not None]
    if waiting:
        connections[min(waiting)[1]].give_way()
    return bool(waiting)


def _network_of(host: str) -> str:
    """Return what counts as one client: an IPv4 address, or the 64 bits of IPv6 that one household gets."""
    if ":" not in host:
        return host
    return str(ipaddress.ip_network((host.partition("%")[0], 64), strict=False))

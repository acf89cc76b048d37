"""KVBudget: how many positions the KV caches of all sessions may take together, and who gives way to whom.

Pure bookkeeping: it frees nothing itself and knows sessions by id. It counts in the steps that caches grow by.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass

from mlx_moe.errors import InsufficientMemoryError, InvalidRequestError
from mlx_moe.layers.kv_cache import GROWTH


@dataclass(slots=True)
class _Room:
    """`used`: what the caches have grown to. `reserved`: what is counted, more than that while a request is active."""

    used: int
    reserved: int
    active: bool


class KVBudget:
    """Rooms of sessions, in the order they were last begun or ended. `positions` None: without a bound."""

    def __init__(self, positions: int | None = None) -> None:
        self.positions = sys.maxsize if positions is None else positions
        self._rooms: dict[str, _Room] = {}

    @property
    def taken(self) -> int:
        """Positions that active sessions have reserved and idle ones keep."""
        return sum(room.reserved for room in self._rooms.values())

    def reserved(self, session_id: str) -> int:
        """Return how many positions an active session may take without another giving way."""
        return self._rooms[session_id].reserved

    def admit(self, session_id: str, positions: int) -> list[str]:
        """Reserve room for a session's request of up to `positions`, prompt and answer; it is active from now on.

        Returns:
            The idle sessions that gave way, least recently used first: their KV caches must be released.

        Raises:
            InvalidRequestError: it would not fit even alone.
            InsufficientMemoryError: it does not fit beside the requests that are active.
        """
        wanted = _in_steps(positions)
        if wanted > self.positions:
            raise InvalidRequestError(
                f"the request may take {wanted} positions of KV cache, the memory has room for {self.positions}: "
                f"shorten the prompt or ask for fewer tokens"
            )
        used = self._rooms[session_id].used if session_id in self._rooms else 0
        others = sum(room.reserved for name, room in self._rooms.items() if room.active and name != session_id)
        if others + wanted > self.positions:
            raise InsufficientMemoryError(
                f"the request may take {wanted} positions of KV cache; requests that are being answered have {others} "
                f"of {self.positions}: try again when one has ended, or ask for fewer tokens"
            )
        self._rooms.pop(session_id, None)
        self._rooms[session_id] = _Room(used, max(used, wanted), active=True)
        return self._give_way(session_id)

    def use(self, session_id: str, end: int) -> list[str]:
        """Note that an active session's caches grow to `end` positions, past what was reserved if need be.

        Returns:
            The sessions that gave way: idle ones as in `admit`, then active ones, the newest first.

        Raises:
            InsufficientMemoryError: there is no room, and no newer request than this one. Nothing changed.
        """
        room = self._rooms[session_id]
        used = max(room.used, _in_steps(end))
        older = sum(self._rooms[name].reserved for name in self._until(session_id) if self._rooms[name].active)
        if older + used > self.positions:
            raise InsufficientMemoryError(
                f"the answer has reached {end} positions; older requests have {older} of the {self.positions} that the "
                f"memory has room for: ask for fewer tokens, or again when one of them has ended"
            )
        room.used, room.reserved = used, max(room.reserved, used)
        return self._give_way(session_id)

    def rest(self, session_id: str) -> None:
        """Note that a session's request ended: it keeps what it used, until it gives way or is released."""
        room = self._rooms.pop(session_id, None)
        if room is not None:  # it has not given way
            self._rooms[session_id] = _Room(room.used, room.used, active=False)

    def release(self, session_id: str) -> None:
        """Note that a session keeps nothing any more."""
        self._rooms.pop(session_id, None)

    def _give_way(self, session_id: str) -> list[str]:
        """Drop sessions until the rest fits: idle ones, then active ones that are newer than `session_id`."""
        idle = [name for name, room in self._rooms.items() if not room.active]
        newer = [name for name in reversed(self._rooms) if self._rooms[name].active]
        newer = newer[: newer.index(session_id)]
        gone: list[str] = []
        for name in (*idle, *newer):
            if self.taken <= self.positions:
                break
            del self._rooms[name]
            gone.append(name)
        return gone

    def _until(self, session_id: str) -> list[str]:
        return list(itertools.takewhile(lambda name: name != session_id, self._rooms))


def _in_steps(positions: int) -> int:
    return -(-positions // GROWTH) * GROWTH

"""KVBudget: limits the positions of all sequences' KV caches together, and decides which sequences are evicted.

Pure bookkeeping over sequence ids: it frees nothing itself. It counts in the steps by which caches grow.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass

from mlx_moe.errors import BusyError, EvictedError, TooLargeError
from mlx_moe.layers.cache_costs import GROWTH


@dataclass(slots=True)
class _Room:
    """`used`: positions of the caches. `reserved`: positions that count, more than `used` while a request is active."""

    used: int
    reserved: int
    active: bool


class KVBudget:
    """The rooms of sequences, in the order of their last start or end. `positions` None: no limit.

    Caches may have a part that does not grow, such as a recurrent state. That of one sequence is not in `positions`;
    for each further one `fixed_positions` count, which take as many bytes.
    """

    def __init__(self, positions: int | None = None, fixed_positions: int = 0) -> None:
        self.positions = sys.maxsize if positions is None else positions
        self._fixed_positions = fixed_positions
        self._rooms: dict[str, _Room] = {}

    @property
    def taken(self) -> int:
        """Number of positions that active sequences have reserved and idle ones keep, fixed parts included."""
        fixed = self._fixed_positions * max(0, len(self._rooms) - 1)
        return sum(room.reserved for room in self._rooms.values()) + fixed

    def reserved(self, sequence_id: str) -> int:
        """Return the number of positions that an active sequence may use without evicting another."""
        return self._rooms[sequence_id].reserved

    def admit(self, sequence_id: str, positions: int) -> list[str]:
        """Reserve room for a sequence's request of up to `positions`, prompt and answer; make the sequence active.

        Returns:
            The evicted idle sequences, least recently used first: the caller must release their KV caches.

        Raises:
            TooLargeError: it would not fit even alone.
            BusyError: it does not fit beside the active requests.
        """
        wanted = _in_steps(positions)
        if wanted > self.positions:
            raise TooLargeError(
                f"the request may take {wanted} positions of KV cache, the memory has room for {self.positions}: "
                f"shorten the prompt or ask for fewer tokens"
            )
        used = self._rooms[sequence_id].used if sequence_id in self._rooms else 0
        busy = [room.reserved for name, room in self._rooms.items() if room.active and name != sequence_id]
        others = sum(busy) + self._fixed_positions * len(busy)
        if others + wanted > self.positions:
            raise BusyError(
                f"the request may take {wanted} positions of KV cache; requests that are being answered have {others} "
                f"of {self.positions}: try again when one has ended, or ask for fewer tokens"
            )
        self._rooms.pop(sequence_id, None)
        self._rooms[sequence_id] = _Room(used, max(used, wanted), active=True)
        return self._give_way(sequence_id)

    def use(self, sequence_id: str, end: int) -> list[str]:
        """Record that an active sequence's caches grow to `end` positions, beyond its reservation if needed.

        Returns:
            The evicted sequences: idle ones as in `admit`, then active ones, the newest first.

        Raises:
            EvictedError: there is no room, and no newer request than this one. Nothing changed.
        """
        room = self._rooms[sequence_id]
        used = max(room.used, _in_steps(end))
        before = [self._rooms[name].reserved for name in self._until(sequence_id) if self._rooms[name].active]
        older = sum(before) + self._fixed_positions * len(before)
        if older + used > self.positions:
            raise EvictedError(
                f"the answer has reached {end} positions; older requests have {older} of the {self.positions} that the "
                f"memory has room for: ask for fewer tokens, or again when one of them has ended"
            )
        room.used, room.reserved = used, max(room.reserved, used)
        return self._give_way(sequence_id)

    def rest(self, sequence_id: str) -> None:
        """Record that a sequence's request ended: its caches stay until they are evicted or released."""
        room = self._rooms.pop(sequence_id, None)
        if room is not None:  # it has not given way
            self._rooms[sequence_id] = _Room(room.used, room.used, active=False)

    def release(self, sequence_id: str) -> None:
        """Record that a sequence keeps no positions any more."""
        self._rooms.pop(sequence_id, None)

    def _give_way(self, sequence_id: str) -> list[str]:
        """Evict sequences until the rest fits: idle ones, then active ones that are newer than `sequence_id`."""
        idle = [name for name, room in self._rooms.items() if not room.active]
        newer = [name for name in reversed(self._rooms) if self._rooms[name].active]
        newer = newer[: newer.index(sequence_id)]
        gone: list[str] = []
        for name in (*idle, *newer):
            if self.taken <= self.positions:
                break
            del self._rooms[name]
            gone.append(name)
        return gone

    def _until(self, sequence_id: str) -> list[str]:
        return list(itertools.takewhile(lambda name: name != sequence_id, self._rooms))


def _in_steps(positions: int) -> int:
    return -(-positions // GROWTH) * GROWTH

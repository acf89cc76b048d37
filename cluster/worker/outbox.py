"""Outbox: the messages of a link that the receiver has not confirmed. Pure: knows nothing about streams.

Sender and receiver count the messages of an epoch. What was sent but not counted is sent again on the next stream, so
that each message arrives once, in order, however often a stream breaks.
"""

from __future__ import annotations

from collections import deque

from cluster.worker.messages import LinkError


class Outbox:
    """Sent messages, from the oldest one that is not confirmed on."""

    def __init__(self) -> None:
        self._unconfirmed: deque[bytes] = deque()
        self._confirmed = 0

    @property
    def confirmed(self) -> int:
        """How many messages the receiver has counted."""
        return self._confirmed

    @property
    def unconfirmed(self) -> tuple[bytes, ...]:
        """The messages to send on a new stream."""
        return tuple(self._unconfirmed)

    def add(self, data: bytes) -> None:
        """Keep a message that is sent."""
        self._unconfirmed.append(data)

    def confirm(self, count: int) -> None:
        """Forget the messages that the receiver has counted.

        Raises:
            LinkError: it has counted what cannot be.
        """
        new = count - self._confirmed
        if not 0 <= new <= len(self._unconfirmed):
            sent = self._confirmed + len(self._unconfirmed)
            raise LinkError(f"{count} messages are said to have arrived, of {self._confirmed} to {sent}")
        for _ in range(new):
            self._unconfirmed.popleft()
        self._confirmed = count

"""FrameStream: a stage's stream of messages to the next node. Where it breaks, it is opened again and resumed.

The receiver says how many messages it has counted when a stream opens, and about every second; see `outbox`.
"""

from __future__ import annotations

import asyncio
import logging
import struct
import time
from collections.abc import Callable, Coroutine
from typing import Any

import grpc

from cluster.errors import NodeLostError
from cluster.worker.messages import LinkError, Message
from cluster.worker.outbox import Outbox

log = logging.getLogger(__name__)

Call = grpc.aio.StreamStreamCall[bytes, bytes]

COUNT = struct.Struct(">Q")
"""What the receiver sends: the number of messages that it has counted."""

EPOCH_KEY = "moe-cluster-epoch"
RECEIVED_KEY = "moe-cluster-received"

SEND_S = 60.0
"""How long the next node may take to receive a message; it receives while it computes."""

SILENCE_S = 10.0
"""A link that broke may be opened again until its receiver was silent for so long. Longer than it takes daemons to find
a lost node or worker: only where both ends live and do not reach each other is it the link that gives up ..."""

REOPEN_S = 1.0
"""... but at least for this time: a ping finds a silent peer after 3.5 to 4.5 s."""

FINAL = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.PERMISSION_DENIED)
"""With these the receiver refuses what it will not accept later: another epoch, another node."""

PAUSE_S = 0.05
FRUITLESS = 5
"""Number of streams in a row that broke without a message having arrived, after which the link is lost."""


class FrameStream:
    """Sends each message once, in order, whatever breaks; `lost` is called if the stream cannot be opened again."""

    def __init__(self, new_call: Callable[[], Call], name: str, node_id: str, lost: Callable[[NodeLostError], None]):
        self._new_call = new_call
        self._name = name
        self._node_id = node_id
        self._lost = lost
        self._call: Call | None = None
        self._outbox = Outbox()
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._heard_s = 0.0
        self._fruitless = 0
        self.sent_bytes = 0

    async def open(self, timeout_s: float) -> None:
        """Open the stream. Raises NodeLostError."""
        try:
            await self._connect(timeout_s)
        except (OSError, grpc.RpcError, LinkError) as exc:
            reason = (
                str(exc) if isinstance(exc, (LinkError, ConnectionError)) else f"it did not open within {timeout_s:g} s"
            )
            raise NodeLostError(f"no link to node {self._name}: {reason}", node_id=self._node_id) from exc

    async def send(self, *messages: Message) -> None:
        """Send the messages of a batch; wait while the next node is far behind, or while the stream is opened again.

        They are one message of the stream. The link is lost if it takes longer than SEND_S: the next node is stuck.
        """
        async with self._one_at_a_time:
            data = b"".join(message.encode() for message in messages)
            self._outbox.add(data)
            self.sent_bytes += len(data)
            await self._write(data)

    def close(self) -> None:
        """End the stream."""
        call, self._call = self._call, None
        for task in self._tasks:
            task.cancel()
        if call is not None:
            call.cancel()

    async def _connect(self, timeout_s: float) -> None:
        """Open a stream and let it be the current one. Raises OSError, grpc.RpcError, LinkError."""
        call = self._new_call()
        try:
            async with asyncio.timeout(timeout_s):
                received = (await call.initial_metadata()).get(RECEIVED_KEY)
                if received is None:
                    error = LinkError if await call.code() in FINAL else ConnectionError
                    raise error(f"it was refused: {await call.details()}")
            self._confirm(_count(received))
        except BaseException:
            call.cancel()
            raise
        self._fruitless += bool(self._outbox.unconfirmed)
        self._call = call
        call.add_done_callback(self._broke)
        self._spawn(self._listen(call))

    async def _write(self, data: bytes) -> None:
        """Send a message on the current stream; what is sent on a broken one is sent again on the next."""
        if self._call is None:  # the link is lost
            return
        try:
            async with asyncio.timeout(SEND_S):  # a write that is cancelled cancels the call
                await self._call.write(data)
        except TimeoutError:
            self._give_up(f"the link to node {self._name} takes nothing for {SEND_S:g} s")
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the call's callback opens the next one

    async def _listen(self, call: Call) -> None:
        """Take the receiver's counts, until the stream ends."""
        try:
            async for counted in call:
                self._confirm(*COUNT.unpack(counted))
        except (LinkError, struct.error) as error:
            self._give_up(f"the link to node {self._name} broke: {error}")
        except grpc.RpcError:
            return  # the call's callback opens the next one

    def _confirm(self, count: int) -> None:
        """Process the receiver's count. Raises LinkError."""
        self._heard_s = time.monotonic()
        if count != self._outbox.confirmed:
            self._outbox.confirm(count)
            self._fruitless = 0

    def _broke(self, call: Call) -> None:
        if call is self._call:
            self._spawn(self._reopen(call))

    async def _reopen(self, broken: Call) -> None:
        """Open the stream again and send what has not arrived, or give the link up."""
        now = time.monotonic()
        ends_at = max(now + REOPEN_S, self._heard_s + SILENCE_S)
        cause = f"{(await broken.code()).name.lower()}: {await broken.details()}"
        log.warning("event=link_broke node=%s silent_s=%.2f cause=%r", self._name, now - self._heard_s, cause)
        async with self._one_at_a_time:
            while self._fruitless < FRUITLESS:
                await asyncio.sleep(PAUSE_S)
                try:
                    await self._connect(max(PAUSE_S, ends_at - time.monotonic()))
                except LinkError as error:
                    cause = str(error)
                    break
                except (OSError, grpc.RpcError):
                    if time.monotonic() >= ends_at:
                        break
                    continue
                again = self._outbox.unconfirmed
                log.warning("event=link_resumed node=%s messages=%d", self._name, len(again))
                for data in again:
                    await self._write(data)
                return
        self._give_up(f"the link to node {self._name} broke: {cause}")

    def _give_up(self, reason: str) -> None:
        if self._call is not None:
            self.close()
            self._lost(NodeLostError(reason, node_id=self._node_id))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _count(value: str | bytes) -> int:
    try:
        return int(value)
    except ValueError as exc:
        raise LinkError(f"{value!r} messages are said to have arrived") from exc

"""Inbox: drafts that were wrong are not run where they still wait."""

import asyncio
from dataclasses import replace

from cluster.worker.inbox import Inbox
from cluster.worker.messages import Kind, Message

A, B = "aa" * 16, "bb" * 16
MOST_BYTES = 1000


def drained(*messages: Message) -> list[Message]:
    async def drain() -> list[Message]:
        inbox = Inbox(MOST_BYTES)
        for message in messages:
            inbox.put(message)
        inbox.put(Message(Kind.RELEASE, B))
        taken = []
        while (message := await inbox.get()).kind is not Kind.RELEASE or message.sequence_id != B:
            taken.append(message)
        return taken

    return asyncio.run(drain())


def frame(sequence_id: str, position: int, serial: int = 0) -> Message:
    return Message(Kind.DRAFT, sequence_id, serial=serial, position=position)


def test_a_frame_voids_what_waits_of_its_request_at_its_position_or_later_and_nothing_else() -> None:
    fork = Message(Kind.FORK, A, position=9)
    waiting = [frame(A, 4), frame(A, 5), frame(B, 5), fork, frame(A, 6)]
    assert drained(*waiting, frame(A, 5, serial=7)) == [frame(A, 4), frame(B, 5), fork, frame(A, 5, serial=7)]


def test_what_waits_is_taken_in_order() -> None:
    messages = [frame(A, 1), frame(B, 1), frame(A, 2), Message(Kind.RELEASE, A)]
    assert drained(*messages) == messages


def test_a_message_that_comes_later_is_waited_for() -> None:
    async def take() -> Message:
        inbox = Inbox(MOST_BYTES)
        taking = asyncio.create_task(inbox.get())
        await asyncio.sleep(0)
        inbox.put(frame(A, 3))
        return await taking

    assert asyncio.run(take()) == frame(A, 3)


def test_who_sends_more_than_fits_waits_until_something_is_taken() -> None:
    async def scenario() -> None:
        inbox = Inbox(MOST_BYTES)
        inbox.put(replace(frame(A, 1), payload=bytes(MOST_BYTES)))
        await inbox.room()
        inbox.put(replace(frame(B, 1), payload=b"1"))
        waiting = asyncio.create_task(inbox.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        await inbox.get()
        await waiting

    asyncio.run(scenario())

"""Inbox: drafts that were wrong are not run where they still wait."""

import asyncio
from dataclasses import replace

from cluster.worker.inbox import Inbox
from cluster.worker.messages import Kind, Message
from mlx_moe.layers.batches import TOGETHER

A, B = "aa" * 16, "bb" * 16
MOST_BYTES = 1000


def drained(*messages: Message) -> list[Message]:
    async def drain() -> list[Message]:
        inbox = Inbox(MOST_BYTES)
        for message in messages:
            inbox.put([message])
        inbox.put([Message(Kind.RELEASE, B)])
        taken = []
        while (got := await inbox.get()) != [Message(Kind.RELEASE, B)]:
            taken += got
        return taken

    return asyncio.run(drain())


def frame(sequence_id: str, position: int, serial: int = 0, rows: int = 2) -> Message:
    return Message(Kind.DRAFT, sequence_id, serial=serial, position=position, rows=rows)


def test_a_frame_voids_what_waits_of_its_request_at_its_position_or_later_and_nothing_else() -> None:
    fork = Message(Kind.FORK, A, position=9)
    waiting = [frame(A, 4), frame(A, 5), frame(B, 5), fork, frame(A, 6)]
    assert drained(*waiting, frame(A, 5, serial=7)) == [frame(A, 4), frame(B, 5), fork, frame(A, 5, serial=7)]


def test_what_waits_is_taken_in_order() -> None:
    messages = [frame(A, 1), frame(B, 1), frame(A, 2), Message(Kind.RELEASE, A)]
    assert drained(*messages) == messages


def test_a_message_that_comes_later_is_waited_for() -> None:
    async def take() -> list[Message]:
        inbox = Inbox(MOST_BYTES)
        taking = asyncio.create_task(inbox.get())
        await asyncio.sleep(0)
        inbox.put([frame(A, 3)])
        return await taking

    assert asyncio.run(take()) == [frame(A, 3)]


def test_who_sends_more_than_fits_waits_until_something_is_taken() -> None:
    async def scenario() -> None:
        inbox = Inbox(MOST_BYTES)
        inbox.put([replace(frame(A, 1), payload=bytes(MOST_BYTES))])
        await inbox.room()
        inbox.put([replace(frame(B, 1), payload=b"1")])
        waiting = asyncio.create_task(inbox.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        await inbox.get()
        await waiting

    asyncio.run(scenario())


def test_steps_that_wait_are_taken_together_one_of_a_sequence_and_none_overtakes_its_own() -> None:
    async def scenario() -> None:
        inbox = Inbox(MOST_BYTES)
        steps = {name: frame(name * 16, 5, rows=1) for name in ("aa", "bb", "cc", "dd")}
        inbox.put([steps["aa"], frame("bb" * 16, 0), steps["bb"], steps["cc"], frame("aa" * 16, 6, rows=1)])
        inbox.put([Message(Kind.RELEASE, "dd" * 16), steps["dd"]])
        assert await inbox.get() == [steps["aa"], steps["cc"]]
        assert await inbox.get() == [frame("bb" * 16, 0)]
        assert inbox.take_steps("bb" * 16) == [frame("aa" * 16, 6, rows=1)]
        assert inbox.take_steps("bb" * 16) == []
        assert await inbox.get() == [steps["bb"]]
        assert await inbox.get() == [Message(Kind.RELEASE, "dd" * 16)]
        assert await inbox.get() == [steps["dd"]]

    asyncio.run(scenario())


def test_no_more_steps_are_taken_than_are_computed_together() -> None:
    async def scenario() -> None:
        inbox = Inbox(MOST_BYTES)
        steps = [frame(f"{n:032x}", 5, rows=1) for n in range(TOGETHER + 2)]
        inbox.put(steps)
        assert await inbox.get() == steps[:TOGETHER]
        assert await inbox.get() == steps[TOGETHER:]

    asyncio.run(scenario())

"""Inbox and the position rule of RingLink: drafts that were wrong are not run where they still wait, nor come back."""

import asyncio

import mlx.core as mx

import mlx_moe
from cluster.worker.inbox import Inbox
from cluster.worker.messages import Kind, Message
from cluster.worker.ring import RingLink
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.pipeline.frame import Frame, FrameKind

A, B = "aa" * 16, "bb" * 16


def drained(*messages: Message) -> list[Message]:
    async def drain() -> list[Message]:
        inbox = Inbox()
        for message in messages:
            inbox.put(message)
        inbox.put(Message(Kind.RELEASE, B))
        taken = []
        while (message := await inbox.get()).kind is not Kind.RELEASE or message.request_id != B:
            taken.append(message)
        return taken

    return asyncio.run(drain())


def frame(request_id: str, position: int, serial: int = 0) -> Message:
    return Message(Kind.DRAFT, request_id, serial=serial, position=position)


def test_a_frame_voids_what_waits_of_its_request_at_its_position_or_later_and_nothing_else() -> None:
    fork = Message(Kind.FORK, A, position=9)
    waiting = [frame(A, 4), frame(A, 5), frame(B, 5), fork, frame(A, 6)]
    assert drained(*waiting, frame(A, 5, serial=7)) == [frame(A, 4), frame(B, 5), fork, frame(A, 5, serial=7)]


def test_what_waits_is_taken_in_order() -> None:
    messages = [frame(A, 1), frame(B, 1), frame(A, 2), Message(Kind.RELEASE, A)]
    assert drained(*messages) == messages


def test_a_message_that_comes_later_is_waited_for() -> None:
    async def take() -> Message:
        inbox = Inbox()
        taking = asyncio.create_task(inbox.get())
        await asyncio.sleep(0)
        inbox.put(frame(A, 3))
        return await taking

    assert asyncio.run(take()) == frame(A, 3)


def test_frames_that_one_sent_again_voids_never_come_back_to_the_coordinator() -> None:
    model = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    sent: list[Message] = []
    link = RingLink(
        model.stage,
        2,
        1,
        lambda message: sent.append(Message.decode(message.encode())),
        lambda _request_id, _serial: None,
    )
    row = mx.zeros((1, model.config.hidden_size))
    for position in (0, 1, 2):
        link.send(Frame(A, position, row, FrameKind.DRAFT))
    assert [link.come_back(message) for message in sent[:2]] == [A, A]
    assert link.receive(A) is not None
    link.send(Frame(A, 1, row, FrameKind.DECODE))  # the one at 1 has come back, the one at 2 is on its way
    assert link.receive(A) is None
    assert [link.come_back(message) for message in sent[2:]] == [None, A]
    returned = link.receive(A)
    assert returned is not None
    assert returned.position == 1
    assert link.receive(A) is None
    model.close()

"""Outbox: whatever breaks, each message arrives once, in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.messages import LinkError
from cluster.worker.outbox import Outbox

STEPS = st.lists(st.sampled_from(["send", "arrive", "confirm", "break"]), max_size=80)


@given(STEPS)
def test_each_message_arrives_once_and_in_order_however_often_the_stream_breaks(steps: list[str]) -> None:
    outbox, on_the_way, arrived, sent = Outbox(), list[bytes](), list[bytes](), list[bytes]()
    for step in [*steps, "break", *["arrive"] * len(steps), "confirm"]:
        if step == "send":
            sent.append(str(len(sent)).encode())
            outbox.add(sent[-1])
            on_the_way.append(sent[-1])
        elif step == "arrive" and on_the_way:
            arrived.append(on_the_way.pop(0))
        elif step == "confirm":
            outbox.confirm(len(arrived))
        elif step == "break":
            outbox.confirm(len(arrived))
            on_the_way = list(outbox.unconfirmed)
    assert arrived == sent
    assert outbox.unconfirmed == ()


@pytest.mark.parametrize("count", [0, 4, 2**64 - 1])
def test_a_count_that_cannot_be_is_refused(count: int) -> None:
    outbox = Outbox()
    for _ in range(3):
        outbox.add(b"")
    outbox.confirm(1)
    with pytest.raises(LinkError, match=f"{count} messages are said to have arrived, of 1 to 3"):
        outbox.confirm(count)

"""Messages: bytes that were cut or changed are never taken for what was sent."""

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.worker.arrays import to_frame, to_message
from cluster.worker.messages import Dtype, Kind, LinkError, Message, decode_batch, failure, raised_by
from mlx_moe.errors import FrameError, MoeClusterError, NumericsError
from mlx_moe.layers.batches import TOGETHER
from mlx_moe.pipeline.frame import Frame, FrameKind

REQUEST_ID = "0123456789abcdef" * 2
WORDS = st.integers(0, 2**32 - 1)

MESSAGES = st.builds(
    Message,
    st.sampled_from(Kind),
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    WORDS,
    st.integers(0, 2**64 - 1),
    WORDS,
    WORDS,
    WORDS,
    WORDS,
    st.sampled_from(Dtype),
    st.integers(0, 255),
    st.binary(max_size=100),
)
SAMPLE = Message(Kind.DECODE, REQUEST_ID, epoch=3, serial=7, position=9, rows=1, width=4, payload=bytes(range(16)))


@given(MESSAGES)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    read = Message.decode(message.encode())
    assert replace(read, payload=bytes(read.payload)) == message


@given(st.lists(MESSAGES, min_size=1, max_size=TOGETHER), MESSAGES)
def test_a_batch_is_read_as_it_was_written_and_has_a_limit(batch: list[Message], more: Message) -> None:
    data = b"".join(message.encode() for message in batch)
    assert [replace(read, payload=bytes(read.payload)) for read in decode_batch(data)] == batch
    for changed in (data[:-1], data + b"M", b"", data + more.encode() * (TOGETHER + 1 - len(batch))):
        with pytest.raises(LinkError):
            decode_batch(changed)


@pytest.mark.parametrize("length", range(len(SAMPLE.encode())))
def test_a_message_that_was_cut_is_none(length: int) -> None:
    with pytest.raises(LinkError):
        Message.decode(SAMPLE.encode()[:length])


@pytest.mark.parametrize("bit", range(8 * len(SAMPLE.encode())))
def test_a_flipped_bit_is_seen(bit: int) -> None:
    data = bytearray(SAMPLE.encode())
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(LinkError):
        Message.decode(bytes(data))


@given(st.binary(max_size=200))
def test_random_bytes_are_no_message(data: bytes) -> None:
    with pytest.raises(LinkError):
        Message.decode(data)


@pytest.mark.parametrize("change", [lambda m: replace(m, kind=99), lambda m: replace(m, dtype=9)])
def test_a_kind_or_dtype_of_another_version_is_refused(change: Callable[[Message], Message]) -> None:
    with pytest.raises(LinkError, match="this version does not know"):
        Message.decode(change(SAMPLE).encode())


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("kind", FrameKind)
@pytest.mark.parametrize("outputs", [None, 1])
def test_a_frame_arrives_as_it_left(dtype: mx.Dtype, kind: FrameKind, outputs: int | None) -> None:
    hidden_states = mx.random.normal((3, 8)).astype(dtype)
    frame = Frame(REQUEST_ID, 5, hidden_states, kind, serial=11, outputs=outputs, checked=outputs is None)
    message = Message.decode(to_message(frame, epoch=2).encode())
    arrived = to_frame(message, "mac-1")
    assert (message.serial, message.epoch) == (11, 2)
    assert mx.array_equal(arrived.hidden_states, hidden_states)
    assert arrived.hidden_states.dtype == dtype
    assert replace(arrived, hidden_states=hidden_states) == frame


def test_a_view_of_a_larger_array_is_sent_as_what_it_shows() -> None:
    whole = mx.random.normal((8, 6))
    view = whole[2:5]
    arrived = to_frame(Message.decode(to_message(Frame(REQUEST_ID, 0, view, FrameKind.PREFILL), 1).encode()), "mac-1")
    assert mx.array_equal(arrived.hidden_states, view)


@pytest.mark.parametrize(("rows", "width"), [(2, 4), (1, 5), (0, 4), (2**32 - 1, 2**32 - 1)])
def test_a_frame_of_another_size_than_it_says_names_the_node(rows: int, width: int) -> None:
    message = Message.decode(replace(SAMPLE, rows=rows, width=width).encode())
    with pytest.raises(FrameError, match="node mac-2: a frame at position 9"):
        to_frame(message, "mac-2")


@pytest.mark.parametrize("error", [FrameError("a hole, größer als 3"), NumericsError("node mac-2, layer 3")])
def test_a_failure_is_raised_where_its_frame_was_sent(error: MoeClusterError) -> None:
    message = Message.decode(failure(SAMPLE, error).encode())
    assert (message.sequence_id, message.epoch, message.serial) == (REQUEST_ID, 3, 7)
    assert type(raised_by(message)) is type(error)
    assert str(raised_by(message)) == str(error)

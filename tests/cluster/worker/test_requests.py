"""Requests that cannot be answered are refused by numbers, over a real port, before any work; others are answered."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import mlx_moe
from cluster.request_message import to_request_message
from cluster.rpc_errors import error_of
from cluster.wire import coordinator_pb2 as pb
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.request import Request
from mlx_moe.errors import InvalidRequestError
from mlx_moe.model import LocalModel
from mlx_moe.text import text_process
from tests.cluster.worker.served import served
from tests.patience import PATIENCE_S

MAX_RECEIVED = 12 << 20
PORT = (("grpc.max_receive_message_length", MAX_RECEIVED),)

LONG_TEXT = "word " * (2 << 20)
DEEP = "[" * 100_000 + "]" * 100_000


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    loaded = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    yield loaded
    loaded.close()


def question(**changes: Any) -> pb.AnswerRequest:
    message = to_request_message(Request.exactly((5, 6, 7), 4), b"", b"")
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def chat(messages: object) -> pb.FormatChatRequest:
    text = messages if isinstance(messages, str) else json.dumps(messages)
    return pb.FormatChatRequest(messages=text, variables="{}")


def said(content: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": content}]


NAN = question()
NAN.sampling.temperature = float("nan")
MANY_IDS = question()
MANY_IDS.input_ids.extend([7] * 3_000_000)
TOO_MANY_IDS = question()
TOO_MANY_IDS.input_ids.extend([7] * (MAX_RECEIVED + 1))

REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "millions of ids": (lambda stub: stub.Answer(MANY_IDS).read(), "has 3000003 tokens; the model's context of 2048"),
    "more than the port reads": (lambda stub: stub.Answer(TOO_MANY_IDS).read(), "does not read so large a request"),
    "an answer over the context": (lambda stub: stub.Answer(question(max_tokens=2046)).read(), "need 2049 positions"),
    "no number": (lambda stub: stub.Answer(NAN).read(), "temperature must be 0.0 to 10.0, got nan"),
    "10 MB of text": (lambda stub: stub.Encode(pb.EncodeRequest(text=LONG_TEXT)), "has 10,485,760 bytes of text"),
    "10 MB of chat": (lambda stub: stub.FormatChat(chat(said(LONG_TEXT))), "at most 1,048,576 are read: shorten it"),
    "a deep chat": (lambda stub: stub.FormatChat(chat(DEEP)), "a field of the request is not JSON"),
    "deep variables": (
        lambda stub: stub.FormatChat(pb.FormatChatRequest(messages="[]", variables='{"a":' + DEEP + "}")),
        "a field of the request is not JSON",
    ),
    "as deep as JSON may be": (lambda stub: stub.FormatChat(chat(said(json.loads("[" * 900 + "]" * 900)))), ""),
    "half a surrogate pair": (lambda stub: stub.FormatChat(chat(said("ab\ud800"))), "half of a surrogate pair"),
    "ids to decode": (lambda stub: stub.Decode(pb.DecodeRequest(token_ids=[7] * 5000)), "5,000 ids to decode; the"),
}


def test_what_cannot_be_answered_is_refused_by_numbers_and_the_next_request_is_answered(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    for deadline in ("DEADLINE_S", "START_DEADLINE_S", "LOAD_DEADLINE_S"):
        monkeypatch.setattr(text_process, deadline, PATIENCE_S)

    async def scenario() -> dict[str, Exception]:
        errors: dict[str, Exception] = {}
        async with served(model, PORT) as (stub, answering):
            for name, (call, _) in REFUSED.items():
                try:
                    await call(stub)
                except grpc.aio.AioRpcError as error:
                    errors[name] = error_of(error, "mac-1")
                assert not answering.active
            ids = (await stub.FormatChat(chat(said("hello")))).token_ids
            written = [event async for event in stub.Answer(to_request_message(Request.exactly(ids, 4), b"", b""))]
            assert len([event for event in written if event.HasField("token")]) == 4
        return errors

    errors = asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
    unexpected = {name: errors.get(name) for name, (_, text) in REFUSED.items() if text not in str(errors.get(name))}
    assert unexpected == {}
    assert {type(errors[name]) for name, (_, text) in REFUSED.items() if text} == {InvalidRequestError}

"""When a client is told to come again: a cluster that is busy, short of memory, or without a model for now."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from cluster.errors import (
    MovedError,
    NoClusterError,
    NodeLostError,
    NotFoundError,
    OccupiedError,
    TooLongError,
    TrustError,
)
from cluster.gateway import asking
from cluster.gateway.answering import End, Piece, Prefill
from cluster.gateway.app import Gateway
from cluster.gateway.failures import Failure
from cluster.gateway.guard import Admission
from cluster.gateway.served import Served
from cluster.gateway.turns import Turns
from cluster.home import Home
from mlx_moe.decoding.request import GenerationStats, Token
from mlx_moe.errors import (
    BusyError,
    EvictedError,
    InvalidRequestError,
    MoeClusterError,
    NumericsError,
    PressureError,
    TooLargeError,
)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        *((kind, 503) for kind in (BusyError, EvictedError, PressureError)),
        *((kind, 503) for kind in (NoClusterError, OccupiedError, NodeLostError, MovedError)),
        *((kind, 400) for kind in (InvalidRequestError, TooLargeError)),
        (TrustError, 401),
        (NotFoundError, 404),
        (TooLongError, 413),
        (NumericsError, 500),
    ],
)
def test_a_client_is_told_when_to_come_again_if_that_may_help(kind: type[MoeClusterError], status: int) -> None:
    failure = Failure.of(kind("why"))
    assert (failure.status, failure.retry_after_s is not None) == (status, status == 503)


class OneModel(Served):
    """Serves a model that is never asked."""

    @asynccontextmanager
    async def model(self, _name: str | None) -> AsyncIterator[Any]:
        yield SimpleNamespace(description=SimpleNamespace(model="demo"))


class Room:
    """A KV cache that has no room for the next `busy` requests; the others wait until `opened`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, busy: int) -> None:
        self.asked = 0
        self.opened = asyncio.Event()
        self._busy = busy
        monkeypatch.setattr(asking, "BUSY_AGAIN_S", 0)
        monkeypatch.setattr(asking, "prompt_of", self._prompt_of)
        monkeypatch.setattr(asking, "answer", self._answer)
        self.gateway = Gateway(OneModel(Home(tmp_path)), Admission(None))

    async def _prompt_of(self, *_: Any) -> list[int]:
        return [1]

    async def _answer(self, *_: Any, **_options: Any) -> AsyncIterator[Prefill | Piece | End]:
        self.asked += 1
        if self.asked <= self._busy:
            raise BusyError("no room")
        yield Prefill(0, 1)
        await self.opened.wait()
        yield Piece(Token(5, "Hi", -0.5, 1, b"Hi"), ())
        yield End((), "stop", GenerationStats(1, 0, 1), 0, 0)

    def client(self, host: str = "127.0.0.1") -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(self.gateway.app(), client=(host, 1))
        return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1")


ASKED: dict[str, Any] = {"url": "/v1/completions", "json": {"prompt": "Hello"}}


def test_a_request_without_room_is_tried_again_before_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        room = Room(monkeypatch, tmp_path, busy=3)
        room.opened.set()
        async with room.client() as client:
            answer = await client.post(**ASKED)
            assert (answer.status_code, room.asked) == (200, 4)
        monkeypatch.setattr(asking, "BUSY_S", -1.0)
        full = Room(monkeypatch, tmp_path, busy=1)
        async with full.client() as client:
            refused = await client.post(**ASKED)
            assert (refused.status_code, refused.headers["retry-after"], full.asked) == (503, "2", 1)

    asyncio.run(run())


def test_one_clients_many_requests_wait_and_another_is_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        room = Room(monkeypatch, tmp_path, busy=0)
        turns = Turns(at_once=1, waiting=3)
        room.gateway._asking._turns = turns
        done: list[str] = []
        async with room.client("10.0.0.1") as greedy, room.client("10.0.0.2") as modest:

            async def ask(client: httpx2.AsyncClient, name: str) -> None:
                answer = await client.post(**ASKED)
                assert answer.status_code == 200
                done.append(name)

            asked = []
            for client, name in ((greedy, "a1"), (greedy, "a2"), (greedy, "a3"), (modest, "b1")):
                asked.append(asyncio.create_task(ask(client, name)))
                while turns.running + turns.waiting < len(asked):
                    await asyncio.sleep(0)
            refused = await modest.post(**ASKED)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
            room.opened.set()
            await asyncio.gather(*asked)
        assert done == ["a1", "a2", "b1", "a3"]

    asyncio.run(run())

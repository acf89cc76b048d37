"""Whose request is answered next."""

import asyncio

import pytest

from cluster.gateway.turns import Turns
from mlx_moe.errors import BusyError


def test_clients_take_turns_whatever_each_of_them_sends() -> None:
    async def order() -> list[str]:
        turns, told = Turns(at_once=1, waiting=100), list[str]()

        async def ask(client: str) -> None:
            async with turns.turn(client):
                told.append(client)
                await asyncio.sleep(0)

        await asyncio.gather(*map(ask, "aaaaabbc"))
        assert (turns.running, turns.waiting) == (0, 0)
        return told

    assert "".join(asyncio.run(order())) == "aabcabaa"


def test_more_than_the_limit_is_refused_with_numbers_and_a_waiting_client_may_go() -> None:
    async def crowd() -> None:
        turns = Turns(at_once=1, waiting=2)
        async with turns.turn("a"):
            waiting = [asyncio.create_task(turns.turn(name).__aenter__()) for name in "ab"]
            await asyncio.sleep(0)
            with pytest.raises(BusyError, match="1 requests are being answered and 2 wait"):
                await turns.turn("c").__aenter__()
            waiting[0].cancel()
            await asyncio.wait([waiting[0]])
        await waiting[1]
        assert (turns.running, turns.waiting) == (1, 0)

    asyncio.run(crowd())

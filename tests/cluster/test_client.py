"""The asynchronous client: an answer as events, ended by cancelling whoever reads it."""

import asyncio
from pathlib import Path

import pytest

from cluster.client import Begun, NodeClient, Prefilled, Written
from cluster.errors import NoClusterError
from cluster.home import Home
from mlx_moe.decoding.request import Request
from tests.cluster.running import Cluster, answer
from tests.patience import PATIENCE_S, until

pytestmark = pytest.mark.slow

REQUEST = Request.exactly(range(1, 61), 8)
LONG = Request.exactly(range(1, 61), 1500)


def test_an_answer_comes_as_events_and_its_counts_with_each_token(five_nodes: Cluster) -> None:
    wanted = answer(five_nodes.load("demo", five_nodes.place("demo", (3, 3))), REQUEST)

    async def events() -> list[Begun | Prefilled | Written]:
        async with await NodeClient.connect(five_nodes.nodes[0].home) as node:
            model = await node.model(await node.settled())
            heard = [event async for event in model.answer(REQUEST)]
            await model.close()
        return heard

    begun, *rest = asyncio.run(events())
    assert isinstance(begun, Begun)
    written = [event for event in rest if isinstance(event, Written)]
    assert [event.token for event in written] == wanted
    assert [event.stats.generated_tokens for event in written] == [*range(1, 9)]
    assert [event.finish_reason for event in written] == [None] * 7 + ["length"]


def test_whoever_stops_reading_ends_the_answer(five_nodes: Cluster) -> None:
    five_nodes.load("demo", five_nodes.place("demo", (3, 3)))

    async def read_a_little() -> None:
        async with await NodeClient.connect(five_nodes.nodes[0].home) as node:
            model = await node.model(await node.settled())
            began = asyncio.Event()

            async def read() -> None:
                async for event in model.answer(LONG):
                    if isinstance(event, Written):
                        began.set()

            reading = asyncio.create_task(read())
            await asyncio.wait_for(began.wait(), PATIENCE_S)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await asyncio.to_thread(until, lambda: five_nodes.own.status().coordinator_stats.active_requests == 0)
            await model.close()

    asyncio.run(read_a_little())


def test_more_prompts_at_once_than_a_node_may_ask_for_wait(five_nodes: Cluster) -> None:
    five_nodes.load("demo", five_nodes.place("demo", (3, 3)))

    async def format_many() -> list[list[int]]:
        async with await NodeClient.connect(five_nodes.nodes[0].home) as node:
            model = await node.model(await node.settled())
            messages = [{"role": "user", "content": "Hello"}]
            prompts = await asyncio.gather(*(model.format_chat(messages, {}) for _ in range(100)))
            await model.close()
            return prompts

    prompts = asyncio.run(format_many())
    assert prompts == [prompts[0]] * 100


def test_where_no_node_runs_the_client_says_so(tmp_path: Path) -> None:
    with pytest.raises(NoClusterError, match="no node runs on this machine"):
        asyncio.run(NodeClient.connect(Home(tmp_path)))

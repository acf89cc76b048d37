"""Answering: turns are fair, and what befalls one answer befalls no other."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

import mlx_moe
from cluster.worker.answering import MAX_UNREAD, Answering, News, Written
from cluster.worker.recording import Recording
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.request import Request
from mlx_moe.errors import InvalidRequestError, NumericsError
from mlx_moe.model import Model
from mlx_moe.sampling_params import SamplingParams
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    loaded = mlx_moe.load("demo")
    yield loaded
    loaded.close()


def request(max_tokens: int) -> Request:
    sampling = SamplingParams(temperature=0.0)
    return Request((5, 6, 7), sampling, max_tokens=max_tokens, ignore_eos=True, detect_loops=False)


async def nothing_to_send() -> None:
    """Flush what one machine sends."""


def run(
    scenario: Callable[[Answering], Coroutine[Any, Any, None]],
    flush: Callable[[], Coroutine[Any, Any, None]] = nothing_to_send,
) -> None:
    async def with_turns() -> None:
        answering = Answering(Recording("mac-1"), flush)
        turns = asyncio.create_task(answering.run())
        async with asyncio.timeout(PATIENCE_S):
            await scenario(answering)
        turns.cancel()
        assert answering.active == 0

    asyncio.run(with_turns())


async def read(news: News) -> list[Written]:
    return [item async for item in news.read() if isinstance(item, Written)]


def test_answers_advance_by_a_token_each_in_turns(model: Model) -> None:
    order: list[str] = []

    class Named(News):
        def __init__(self, name: str) -> None:
            super().__init__()
            self._name = name

        def say(self, news: tuple[int, int] | Written) -> None:
            order.append(self._name)
            super().say(news)

    async def scenario(answering: Answering) -> None:
        all_news = {name: Named(name) for name in "abc"}
        for name, news in all_news.items():
            answering.begin(name, model.generate(request(4)), news)
        answers = await asyncio.gather(*map(read, all_news.values()))
        assert [len(answer) for answer in answers] == [4, 4, 4]

    run(scenario)
    assert order == list("abcabcabcabc")


def test_what_a_turn_sends_has_left_before_the_next_turn(model: Model) -> None:
    order: list[str] = []

    class Noted(News):
        def say(self, news: tuple[int, int] | Written) -> None:
            order.append("turn")
            super().say(news)

    async def flush() -> None:
        await asyncio.sleep(0)  # as the network makes it wait
        order.append("left")

    async def scenario(answering: Answering) -> None:
        both = [Noted(), Noted()]
        for name, news in zip("ab", both, strict=True):
            answering.begin(name, model.generate(request(4)), news)
        await asyncio.gather(*map(read, both))

    run(scenario, flush)
    assert order[:15] == ["turn", "left"] * 7 + ["turn"]


def test_news_of_a_token_are_those_of_when_it_was_written(model: Model) -> None:
    async def scenario(answering: Answering) -> None:
        news = News()
        answering.begin("a", model.generate(request(4)), news)
        while answering.active:  # all is written before anything is read
            await asyncio.sleep(0)
        written = await read(news)
        assert [each.finish_reason for each in written] == [None, None, None, "length"]
        assert [each.stats.generated_tokens for each in written] == [1, 2, 3, 4]

    run(scenario)


def test_a_slow_reader_makes_its_own_answer_wait_and_no_other(model: Model) -> None:
    async def scenario(answering: Answering) -> None:
        slow, quick = News(), News()
        generation = model.generate(request(MAX_UNREAD + 20))
        answering.begin("slow", generation, slow)
        while not slow.is_full:
            await asyncio.sleep(0)
        answering.begin("quick", model.generate(request(10)), quick)
        assert len(await read(quick)) == 10
        assert generation.stats.generated_tokens == MAX_UNREAD
        assert len(await read(slow)) == MAX_UNREAD + 20

    run(scenario)


def test_a_failure_comes_to_its_own_reader_after_what_was_written(model: Model) -> None:
    async def scenario(answering: Answering) -> None:
        failing, other = News(), News()
        generation = model.generate(request(100))
        answering.begin("failing", generation, failing)
        answering.begin("other", model.generate(request(5)), other)
        reading = aiter(failing.read())
        await anext(reading)
        generation.fail(NumericsError("layer 3"))
        with pytest.raises(NumericsError, match="layer 3"):
            [_ async for _ in reading]
        assert generation.stats.generated_tokens < 100
        assert len(await read(other)) == 5

    run(scenario)


class Waiting(Generation):
    """An answer whose frame never comes back."""

    def __init__(self) -> None:
        self.failure = None
        self.closed = False

    def advance(self) -> None:
        if self.failure is not None:
            raise self.failure

    def close(self) -> None:
        self.closed = True


def test_an_answer_that_gave_way_while_it_waits_is_told_by_the_turn_that_made_it() -> None:
    class MakesWay(Waiting):
        def advance(self) -> None:
            waiting.failure = NumericsError("made way")

    waiting, other = Waiting(), MakesWay()

    async def scenario(answering: Answering) -> None:
        news, others = News(), News()
        answering.begin("waiting", waiting, news)
        await asyncio.sleep(0)
        answering.begin("other", other, others)
        with pytest.raises(NumericsError, match="made way"):
            await read(news)
        answering.end("other", other)

    run(scenario)


def test_a_session_has_one_answer_and_its_old_one_ends_no_new_one() -> None:
    async def scenario(answering: Answering) -> None:
        first, second, news = Waiting(), Waiting(), News()
        answering.begin("a", first, News())
        with pytest.raises(InvalidRequestError, match="being answered"):
            answering.begin("a", second, news)
        answering.end("a", first)
        answering.begin("a", second, news)
        answering.end("a", first)
        assert "a" in answering
        assert (first.closed, second.closed) == (True, False)
        answering.cut_off("a")
        assert await read(news) == []
        assert second.closed

    run(scenario)


def test_all_readers_hear_why_all_ends() -> None:
    async def scenario(answering: Answering) -> None:
        all_news = [News() for _ in range(3)]
        for number, news in enumerate(all_news):
            answering.begin(str(number), Waiting(), news)
        answering.fail_all(NumericsError("the end"))
        for news in all_news:
            with pytest.raises(NumericsError, match="the end"):
                await read(news)

    run(scenario)

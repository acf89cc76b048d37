"""Answering: turns are fair, and what befalls one answer befalls no other."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import mlx.core as mx
import pytest

import mlx_moe
from cluster.errors import NodeLostError, UnreadError
from cluster.worker import answer_queue
from cluster.worker.answer_queue import MAX_UNREAD, AnswerQueue, Progress, QueuedToken, Waiting
from cluster.worker.answering import Answering
from cluster.worker.computing import Computing
from cluster.worker.pipeline import Pipeline, Receive
from cluster.worker.recording import Recording
from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.request import Request, Token
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.errors import BusyError, InvalidRequestError, NumericsError
from mlx_moe.layers.cache_costs import GROWTH
from mlx_moe.model import LocalModel
from mlx_moe.pipeline.frame import Batch, Fork, Frame, Outgoing, Release
from mlx_moe.sampling_params import SamplingParams
from tests import oracles
from tests.patience import PATIENCE_S


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    loaded = mlx_moe.load("demo", chunks=DEFAULT_RULE)
    yield loaded
    loaded.close()


class Watched(Pipeline):
    """Notes when a frame has left."""

    order: list[str]

    async def send(self, item: Outgoing) -> None:
        await super().send(item)
        await asyncio.sleep(0)  # as a network makes it wait
        self.order += ["left"] * (len(item.frames) if isinstance(item, Batch) else isinstance(item, Frame))


class Silent(Pipeline):
    """Loses its frames, which are overdue from the beginning where it says so."""

    is_overdue = False

    async def send(self, item: Outgoing) -> None:
        if isinstance(item, Frame):
            self._lost = item.sequence_id

    def overdue(self, now_s: float) -> set[str]:  # noqa: ARG002
        return {self._lost} if self.is_overdue else set()


class Meddled(Pipeline):
    """Lets something happen once while the first message of a kind is sent, as a network does."""

    def __init__(self, computing: Computing, recording: Recording, receive: Receive) -> None:
        super().__init__(computing, recording, receive)
        self.meanwhile: dict[type, Callable[[], None]] = {}

    async def send(self, item: Outgoing) -> None:
        await super().send(item)
        if meddle := self.meanwhile.pop(type(item), None):
            meddle()


def request(prompt: tuple[int, ...], count: int) -> Request:
    return Request(prompt, SamplingParams(temperature=0.0), max_tokens=count, ignore_eos=True, detect_loops=False)


class Answers:
    """Answers of the demo on one machine."""

    def __init__(self, model: LocalModel, kind: type[Pipeline] = Pipeline, kv_positions: int | None = None) -> None:
        self.model = model
        coordinator = Coordinator(model.head, model.config.vocab_size, kv_positions=kv_positions)
        self.pipeline = kind(Computing(model.stage), Recording("mac-1"), lambda returned: self.all.receive(returned))
        self.all = Answering(coordinator, self.pipeline)

    def ask(
        self, stream: AnswerQueue, count: int, prompt: tuple[int, ...] = (5, 6, 7), sequence: Sequence | None = None
    ) -> AnswerWriter:
        writer = self.model.writer(request(prompt, count), sequence or Sequence())
        self.all.begin(writer, stream)
        return writer


def run(answers: Answers, scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def with_turns() -> None:
        turns = asyncio.create_task(answers.all.run())
        async with asyncio.timeout(PATIENCE_S):
            await scenario()
        assert answers.all.active == 0
        for sequence in list(answers.all._coordinator.sequences.values()):
            answers.all.release(sequence)
        while answers.model.stage.kv_positions:
            await asyncio.sleep(0)
        turns.cancel()

    asyncio.run(with_turns())


async def read(stream: AnswerQueue) -> list[QueuedToken]:
    return [item async for item in stream.read() if isinstance(item, QueuedToken)]


class Named(AnswerQueue):
    """Notes each token under a name."""

    def __init__(self, name: str, order: list[str]) -> None:
        super().__init__()
        self._name = name
        self._order = order

    def put(self, item: Progress | Waiting | QueuedToken) -> None:
        if isinstance(item, QueuedToken):
            self._order.append(self._name)
        super().put(item)


def test_answers_advance_by_a_token_each_in_turns_and_those_that_decode_together(model: LocalModel) -> None:
    order: list[str] = []
    answers = Answers(model)

    async def scenario() -> None:
        streams = [Named(name, order) for name in "abc"]
        for stream in streams:
            answers.ask(stream, 4)
        assert [len(written) for written in await asyncio.gather(*map(read, streams))] == [4, 4, 4]

    run(answers, scenario)
    turns = ["a", "a", "b", "ab", "c", "abc", "bc", "c"]  # at first every second turn is for one that only begins
    assert order == list("".join(turns))


def test_what_a_turn_sends_has_left_before_the_next_turn(model: LocalModel) -> None:
    answers = Answers(model, Watched)
    order = answers.pipeline.order = []  # type: ignore[attr-defined]

    async def scenario() -> None:
        streams = [Named("token", order) for _ in range(2)]
        for stream in streams:
            answers.ask(stream, 4)
        await asyncio.gather(*map(read, streams))

    run(answers, scenario)
    assert (order.count("left"), order.count("token")) == (8, 8)
    tokens = [i for i, what in enumerate(order) if what == "token"]
    for n, i in enumerate(tokens[:-2], start=1):
        assert order[:i].count("left") > n  # the frame of this token, and of all before it


def test_a_token_comes_with_the_counts_of_when_it_was_written(model: LocalModel) -> None:
    answers = Answers(model)

    async def scenario() -> None:
        stream = AnswerQueue()
        answers.ask(stream, 4)
        while answers.all.active:  # all is written before anything is read
            await asyncio.sleep(0)
        written = await read(stream)
        assert [each.finish_reason for each in written] == [None, None, None, "length"]
        assert [each.stats.generated_tokens for each in written] == [1, 2, 3, 4]

    run(answers, scenario)


def test_a_slow_reader_makes_its_own_answer_wait_and_no_other(model: LocalModel) -> None:
    answers = Answers(model)

    async def scenario() -> None:
        slow, quick = AnswerQueue(), AnswerQueue()
        writer = answers.ask(slow, MAX_UNREAD + 20)
        while not slow.is_full:
            await asyncio.sleep(0)
        answers.ask(quick, 10)
        assert len(await read(quick)) == 10
        assert MAX_UNREAD - 3 <= writer.stats.generated_tokens <= MAX_UNREAD  # progress is read too
        assert len(await read(slow)) == MAX_UNREAD + 20

    run(answers, scenario)


@pytest.mark.parametrize("n_read", [0, 1])
def test_an_answer_that_is_not_read_for_long_ends_and_what_was_written_can_still_be_read(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch, n_read: int
) -> None:
    monkeypatch.setattr(answer_queue, "UNREAD_S", 0.05)
    answers = Answers(model)

    async def scenario() -> None:
        left, quick = AnswerQueue(), AnswerQueue()
        writer = answers.ask(left, 2 * MAX_UNREAD)
        while not left.is_full:
            await asyncio.sleep(0)
        reading = aiter(left.read())
        items = [await anext(reading) for _ in range(n_read)]  # the last is with a reader that does not come back
        answers.ask(quick, 10)
        assert len(await read(quick)) == 10
        while writer.sequence.id in answers.all:
            await asyncio.sleep(0.01)

        async def read_the_rest() -> None:
            async for item in reading:
                items.append(item)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(UnreadError, match=r"ended after \d+ tokens: nothing of it was read"):
            await read_the_rest()
        tokens = [item for item in items if isinstance(item, QueuedToken)]
        assert len(tokens) == writer.stats.generated_tokens <= MAX_UNREAD

    run(answers, scenario)


def test_a_failure_comes_to_its_own_reader_after_what_was_written(model: LocalModel) -> None:
    answers = Answers(model)

    async def scenario() -> None:
        failing, other = AnswerQueue(), AnswerQueue()
        writer = answers.ask(failing, 100)
        answers.ask(other, 40)
        reading = aiter(failing.read())
        while not isinstance(await anext(reading), QueuedToken):
            pass
        layer = model.stage.shard.layers[3]
        healthy = layer._input_norm
        layer._input_norm = lambda x: healthy(x) * mx.nan
        with pytest.raises(NumericsError, match="layer 3") as raised:
            [_ async for _ in reading]
        layer._input_norm = healthy
        assert raised.value.sequence_id == writer.sequence.id
        assert 0 < writer.stats.generated_tokens < 100
        with pytest.raises(NumericsError):
            await read(other)

    run(answers, scenario)


def test_an_answer_that_gives_way_to_an_older_one_goes_on_after_it_with_the_same_tokens(model: LocalModel) -> None:
    answers = Answers(model, kv_positions=2 * GROWTH)
    undisturbed = Answers(model)
    wanted: list[Token] = []

    async def alone() -> None:
        stream = AnswerQueue()
        undisturbed.ask(stream, 200)
        wanted.extend(item.token for item in await read(stream))

    async def scenario() -> None:
        older, newest = AnswerQueue(), AnswerQueue()
        long = tuple(oracles.random_ids(GROWTH - 4, 200))
        first = answers.ask(older, 1, long)
        await read(older)
        again = AnswerQueue()
        answers.ask(again, GROWTH // 2, (*long, 3), first.sequence)
        writer = answers.ask(newest, 200)
        begun = await _until_put_back(newest)
        with pytest.raises(BusyError, match="1 answers wait for room"):
            answers.ask(AnswerQueue(), 1)
        assert begun + [item.token for item in await read(newest)] == wanted
        assert "older answers have the KV cache" in writer.stats.waited_for
        assert len(await read(again)) == GROWTH // 2

    run(undisturbed, alone)
    answers.all._coordinator.scheduler.begin = _unreserved(answers)  # type: ignore[method-assign]
    run(answers, scenario)


LONG = tuple(oracles.random_ids(GROWTH + 44, 200))


def test_an_answer_whose_caches_are_evicted_before_its_first_turn_is_written(model: LocalModel) -> None:
    answers = Answers(model, kv_positions=3 * GROWTH)

    async def scenario() -> None:
        idle, other, again = AnswerQueue(), AnswerQueue(), AnswerQueue()
        sequence = answers.ask(idle, 1, LONG).sequence
        await read(idle)
        answers.ask(other, 4, LONG[::-1])
        answers.ask(again, 4, (*LONG[:20], 3), sequence)
        assert [len(written) for written in await asyncio.gather(read(other), read(again))] == [4, 4]

    run(answers, scenario)


def test_answers_end_and_sequences_close_while_others_give_way(model: LocalModel) -> None:
    answers = Answers(model, Meddled, kv_positions=4 * GROWTH)

    async def scenario() -> None:
        idle = [AnswerQueue(), AnswerQueue()]
        sequences = [answers.ask(stream, 1, LONG).sequence for stream in idle]
        await asyncio.gather(*map(read, idle))
        cancelled = answers.ask(AnswerQueue(), 4, LONG * 3)

        def close() -> None:
            answers.all.release(sequences[1])
            answers.all.release(cancelled.sequence)

        answers.pipeline.meanwhile = {Release: close}  # type: ignore[attr-defined]
        while answers.all.active:
            await asyncio.sleep(0)
        after = AnswerQueue()
        answers.ask(after, 4, LONG * 3)
        assert len(await read(after)) == 4
        assert len(answers.all._coordinator.scheduler.budget._rooms) == 1

    run(answers, scenario)


def test_an_answer_begun_while_a_fork_is_sent_for_the_one_before_is_of_its_own_prompt(model: LocalModel) -> None:
    answers = Answers(model, Meddled)
    prompt = (*LONG[1:80], 3)
    wanted = list(model.generate(request(prompt, 4)))

    async def scenario() -> None:
        lender, after = AnswerQueue(), AnswerQueue()
        answers.ask(lender, 1, LONG[:100])
        await read(lender)
        first = answers.ask(AnswerQueue(), 4, LONG[:90])

        def ask_another() -> None:
            answers.all.end(first)
            answers.ask(after, 4, prompt, first.sequence)

        answers.pipeline.meanwhile = {Fork: ask_another}  # type: ignore[attr-defined]
        assert [each.token for each in await read(after)] == wanted

    run(answers, scenario)


def test_a_fork_of_what_is_lost_leaves_nothing_kept(model: LocalModel) -> None:
    pipeline = Answers(model).pipeline
    asyncio.run(pipeline.send(Fork("a" * 32, "b" * 32, positions=5)))
    assert model.stage.kv_positions == 0


async def _until_put_back(stream: AnswerQueue) -> list[Token]:
    """Return the tokens before an answer is put back."""
    tokens = []
    async for item in stream.read():
        if isinstance(item, Waiting):
            break
        tokens += [item.token] if isinstance(item, QueuedToken) else []
    return tokens


def _unreserved(answers: Answers) -> Callable[..., list[str]]:
    """Return a scheduler's `begin` that reserves the prompt alone, so that answers outgrow it."""
    begin = answers.all._coordinator.scheduler.begin
    return lambda sequence_id, prompt, written, _limit, _max_tokens: begin(sequence_id, prompt + written, 0, 1, 1)


def test_a_sequence_has_one_answer_and_its_old_one_ends_no_new_one(model: LocalModel) -> None:
    answers = Answers(model)

    async def scenario() -> None:
        sequence, second = Sequence(), AnswerQueue()
        first = answers.ask(AnswerQueue(), 400, sequence=sequence)
        with pytest.raises(InvalidRequestError, match="being answered"):
            answers.ask(AnswerQueue(), 4, sequence=sequence)
        answers.all.end(first)
        answers.ask(second, 4, sequence=sequence)
        answers.all.end(first)
        assert sequence.id in answers.all
        assert len(await read(second)) == 4
        third = AnswerQueue()
        answers.ask(third, 400, sequence=sequence)
        answers.all.cut_off(sequence)
        assert await read(third) == []

    run(answers, scenario)


def test_all_readers_hear_why_all_ends(model: LocalModel) -> None:
    answers = Answers(model)

    async def scenario() -> None:
        streams = [AnswerQueue() for _ in range(3)]
        for stream in streams:
            answers.ask(stream, 400)
        answers.all.fail_all(NumericsError("the end"))
        for stream in streams:
            with pytest.raises(NumericsError, match="the end"):
                await read(stream)

    run(answers, scenario)


def test_an_answer_ends_amid_a_chunk_of_its_prompt_and_its_caches_are_as_before(model: LocalModel) -> None:
    answers = Answers(model)

    async def scenario() -> None:
        writer = answers.ask(AnswerQueue(), 4, tuple(oracles.random_ids(400, 200)))
        while answers.pipeline.computing._running is None:
            await asyncio.sleep(0)
        answers.all.end(writer)
        assert model.stage.kv_positions == len(writer.sequence.token_ids)
        other = AnswerQueue()
        answers.ask(other, 4)
        assert len(await read(other)) == 4

    run(answers, scenario)


def test_a_frame_that_does_not_come_back_ends_its_answer(model: LocalModel) -> None:
    answers = Answers(model, Silent)

    async def scenario() -> None:
        stream = AnswerQueue()
        answers.ask(stream, 4)
        answers.pipeline.is_overdue = True  # type: ignore[attr-defined]
        with pytest.raises(NodeLostError, match="does not come back"):
            await read(stream)

    run(answers, scenario)


def test_an_answer_that_is_interrupted_tells_why_it_waits_and_how_far_it_is(model: LocalModel) -> None:
    answers = Answers(model)
    told: list[Waiting] = []

    async def scenario() -> None:
        stream = AnswerQueue()
        writer = answers.ask(stream, 30)
        turns = asyncio.create_task(answers.all.run())
        reading = aiter(stream.read())
        while writer.stats.generated_tokens < 20:
            await anext(reading)
        turns.cancel()
        await asyncio.wait((turns,))
        answers.all.interrupt(NodeLostError("node mac-2 is lost"))
        model.stage.release(writer.sequence.id)
        coordinator = Coordinator(model.head, model.config.vocab_size)
        pipeline = Pipeline(Computing(model.stage), Recording("mac-1"), answers.all.receive)
        answers.all.resume(coordinator, pipeline)
        kept = len(writer.sequence.planned) + 2  # the prompt's three positions are one frame
        turns = asyncio.create_task(answers.all.run())
        items = [item async for item in reading]
        told.extend(item for item in items if isinstance(item, Waiting))
        assert sum(isinstance(item, QueuedToken) for item in items) >= 10
        assert told[0] == Waiting("node mac-2 is lost")
        assert [w.total for w in told[1:]] == [kept] * (len(told) - 1)
        done = [w.done for w in told[1:]]
        assert done == sorted(set(done))
        assert len(done) > 10
        turns.cancel()

    asyncio.run(scenario())


def test_unread_progress_is_replaced_and_no_token_is() -> None:
    async def unread() -> list[object]:
        queue = AnswerQueue()
        for item in ((1, 9), (2, 9), Waiting("lost"), Waiting("lost", 1, 4), Waiting("lost", 2, 4), (3, 9)):
            queue.put(item)
        queue.end()
        return [item async for item in queue.read()]

    assert asyncio.run(unread()) == [(2, 9), Waiting("lost", 2, 4), (3, 9)]

"""Batches: steps of several answers are computed together, over any cut of the layers; each is as if it were alone."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_moe
from cluster.worker.answer_queue import AnswerQueue, QueuedToken
from cluster.worker.answering import Answering
from cluster.worker.computing import Computing
from cluster.worker.inbox import Inbox
from cluster.worker.messages import Message, decode_batch
from cluster.worker.pipeline import Pipeline
from cluster.worker.recording import Recording
from cluster.worker.ring import RingPipeline, RingStage, Send
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.drafting import Drafter, NgramDrafter
from mlx_moe.decoding.request import Request
from mlx_moe.decoding.sequence import Sequence as Conversation
from mlx_moe.errors import NumericsError
from mlx_moe.model import LocalModel
from mlx_moe.pipeline.frame import Cancel, Returned
from mlx_moe.pipeline.shard_spec import ShardSpec
from mlx_moe.pipeline.stage import Stage
from mlx_moe.sampling_params import SamplingParams
from tests import oracles
from tests.patience import PATIENCE_S

EPOCH = 3
N_LAYERS = 6
MOST_BYTES = 1 << 20
PROMPTS = [tuple(oracles.random_ids(length, 200, seed=length)) for length in (1, 3, 17, 40, 90)]
TOKENS = 12


@cache
def demo() -> LocalModel:
    return mlx_moe.load("demo", chunks=DEFAULT_RULE)


def request(number: int) -> Request:
    sampling = SamplingParams(temperature=1.2 if number % 2 else 0.0, seed=number)
    prompt = PROMPTS[number % len(PROMPTS)]
    return Request(prompt, sampling, max_tokens=TOKENS - number % 4, ignore_eos=True, detect_loops=False)


@cache
def wanted(number: int) -> list[int]:
    return [token.id for token in demo().generate(request(number))]


class Ring:
    """Answers over stages that pass messages on through queues, all in one event loop."""

    def __init__(self, ends: Sequence[int], new_drafter: Callable[[], Drafter] | None = None) -> None:
        model = demo()
        shard = model.stage.shard
        spans = [range(a, b) for a, b in zip((0, *ends), (*ends, N_LAYERS), strict=True)]
        parts = [replace(shard, spec=ShardSpec(span), layers=shard.layers[span.start : span.stop]) for span in spans]
        self.stages = first, *others = [Stage(part, f"mac-{n}") for n, part in enumerate(parts, 1)]
        self._others = [RingStage(Computing(stage), EPOCH, "mac-0") for stage in others]
        self._inboxes = [Inbox(MOST_BYTES) for _ in others]
        computing, recording = Computing(first), Recording("mac-1")
        self._ring = RingPipeline(
            computing, recording, self._receive, len(parts), EPOCH, self._sender(0), self._cancel, work=1.0, last="last"
        )
        pipeline = self._ring if others else Pipeline(computing, recording, self._receive)
        self.coordinator = Coordinator(
            model.head,
            model.config.vocab_size,
            n_stages=len(parts),
            frames_in_flight=pipeline.frames_in_flight,
            new_drafter=new_drafter,
        )
        self.answering = Answering(self.coordinator, pipeline)

    async def run(self) -> None:
        """Compute until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.answering.run())
            for n, stage in enumerate(self._others):
                group.create_task(stage.run(self._inboxes[n], self._sender(n + 1)))

    async def answer(self, number: int, joins_after: int = 0, leaves_after: int = TOKENS) -> list[int]:
        """Return the tokens of a request that begins after some turns; its reader may leave early."""
        for _ in range(joins_after):
            await asyncio.sleep(0)
        sequence, stream, written = Conversation(), AnswerQueue(), list[int]()
        writer = demo().writer(request(number), sequence)
        self.answering.begin(writer, stream)
        async for item in stream.read():
            if isinstance(item, QueuedToken):
                written.append(item.token.id)
                if len(written) >= leaves_after:
                    break
        self.answering.end(writer)
        self.answering.release(sequence)
        return written

    def _sender(self, wire: int) -> Send:
        async def send(*batch: Message) -> None:
            await asyncio.sleep(0)
            messages = decode_batch(b"".join(message.encode() for message in batch))
            if wire < len(self._inboxes):
                self._inboxes[wire].put(messages)
            else:
                for each in messages:
                    self._ring.come_back(each)

        return send

    def _receive(self, returned: Returned) -> None:
        self.answering.receive(returned)

    def _cancel(self, cancel: Cancel) -> None:
        for stage in self._others:
            stage.cancel(cancel)


def finish(ring: Ring, *answers: Awaitable[list[int]]) -> list[list[int]]:
    """Return what answers wrote, once nothing is kept of them."""

    async def scenario() -> list[list[int]]:
        running = asyncio.create_task(ring.run())
        async with asyncio.timeout(PATIENCE_S):
            written = await asyncio.gather(*answers)
            while any(stage.kv_positions for stage in ring.stages):
                await asyncio.sleep(0)
        running.cancel()
        return written

    return asyncio.run(scenario())


ANSWERS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(0, 40), st.integers(1, TOKENS) | st.just(TOKENS)), min_size=1, max_size=9
)


@settings(max_examples=25)
@given(st.sets(st.integers(1, N_LAYERS - 1), max_size=4).map(sorted), ANSWERS, st.booleans())
def test_answers_that_join_and_leave_have_the_tokens_that_they_have_alone(
    ends: list[int], answers: list[tuple[int, int, int]], has_drafts: bool
) -> None:
    ring = Ring(ends, NgramDrafter if has_drafts else None)
    written = finish(ring, *(ring.answer(*answer) for answer in answers))
    for (number, _, leaves_after), tokens in zip(answers, written, strict=True):
        assert tokens == wanted(number)[:leaves_after]


@pytest.mark.parametrize(("ends", "together"), [((), 2.0), ((2, 4), 1.2)])
def test_decoding_answers_are_divided_among_the_stages(ends: tuple[int, ...], together: float) -> None:
    ring = Ring(ends)
    assert finish(ring, *(ring.answer(number) for number in range(8))) == [wanted(number) for number in range(8)]
    for stage in ring.stages:
        batches = stage.counts.decode_batches
        assert batches.total() * together < sum(n * count for n, count in batches.items())
        assert sum(n * count for n, count in batches.items()) == sum(len(wanted(number)) - 1 for number in range(8))


@pytest.mark.parametrize("ends", [(), (3,)])
def test_nan_in_one_answer_of_a_batch_ends_this_one_alone(ends: tuple[int, ...]) -> None:
    ring = Ring(ends)

    async def spoil(sequence: Conversation, stream: AnswerQueue) -> None:
        async for item in stream.read():
            if isinstance(item, QueuedToken):
                cache = ring.stages[-1]._caches[sequence.id][-1]
                cache._buffers[0] = cache._buffers[0] * float("nan")  # type: ignore[attr-defined]

    async def spoiled() -> list[int]:
        sequence, stream = Conversation(), AnswerQueue()
        ring.answering.begin(demo().writer(request(2), sequence), stream)
        with pytest.raises(NumericsError, match="layer 5"):
            await spoil(sequence, stream)
        ring.answering.release(sequence)
        return []

    written = finish(ring, spoiled(), *(ring.answer(number) for number in range(4)))
    assert written[1:] == [wanted(number) for number in range(4)]

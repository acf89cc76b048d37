"""Ring: a coordinator whose stages are elsewhere gets what it would get from stages in its own process.

The wires between the stages are queues, and a message crosses one when the test says so.
"""

import asyncio
import itertools
import math
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_moe
from cluster.timeline import FRAMES, SpanKind, Timeline
from cluster.wire import worker_pb2 as pb
from cluster.worker.computing import Computing
from cluster.worker.messages import ITEM_BYTES, Dtype, Kind, Message
from cluster.worker.recording import Recording
from cluster.worker.ring import RingPipeline, RingStage
from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.engine import Engine
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.request import Request, Token
from mlx_moe.decoding.sequence import Sequence as Conversation
from mlx_moe.decoding.session import Session
from mlx_moe.errors import FrameError, NumericsError, RewindError
from mlx_moe.model import LocalModel
from mlx_moe.pipeline.frame import Cancel, Fork, Frame, FrameKind, Outgoing, Refused, Release, Returned
from mlx_moe.pipeline.shard_spec import ShardSpec
from mlx_moe.pipeline.stage import Stage
from mlx_moe.sampling_params import SamplingParams
from tests import oracles

EPOCH = 4
N_LAYERS = 6
TOKENS = 5
LONG = tuple(oracles.random_ids(90, 200, seed=90))
PROMPTS = [(7,), LONG[:32], LONG[:33], LONG, (*LONG[:64], 3, 4), tuple(oracles.random_ids(40, 200, seed=40))]


@cache
def demo() -> LocalModel:
    return mlx_moe.load("demo", chunks=DEFAULT_RULE)


@pytest.fixture(autouse=True, scope="module")
def _loaded() -> Iterator[None]:
    demo()
    yield
    demo().close()
    demo.cache_clear()


def stages(ends: Sequence[int]) -> list[Stage]:
    """Return the demo's layers in stages that end before these layers, the last one with the rest."""
    shard = demo().stage.shard
    spans = [range(a, b) for a, b in zip((0, *ends), (*ends, N_LAYERS), strict=True)]
    parts = [replace(shard, spec=ShardSpec(span), layers=shard.layers[span.start : span.stop]) for span in spans]
    return [Stage(part, f"mac-{n}") for n, part in enumerate(parts, 1)]


class Ring:
    """A link and the stages behind it. `wires[i]` leads to stage i + 1, the last one back to the coordinator."""

    def __init__(self, ends: Sequence[int]) -> None:
        first, *others = stages(ends)
        self.n_stages = len(others) + 1
        self.stages = [first, *others]
        self.others = [RingStage(Computing(stage), EPOCH, f"mac-{n}") for n, stage in enumerate(others, 1)]
        self.wires: list[deque[bytes]] = [deque() for _ in self.stages]
        self.returned: defaultdict[str, list[Returned]] = defaultdict(list)
        self.pipeline = RingPipeline(
            Computing(first),
            Recording(first.node),
            lambda returned: self.returned[returned.sequence_id].append(returned),
            self.n_stages,
            EPOCH,
            self._send,
            self._cancel,
            work=N_LAYERS / len(first.shard.layers),
            last=self.stages[-1].node,
        )
        self.frames_in_flight = self.pipeline.frames_in_flight
        self.heard_of_cancels = True

    def send(self, item: Outgoing) -> None:
        """See Link."""
        loop().run(self._send_whole(item))

    def receive(self, sequence_id: str) -> list[Returned]:
        """See Link."""
        return self.returned.pop(sequence_id, [])

    def step(self, wire: int) -> None:
        """Let the oldest message on a wire arrive, and be passed on."""
        if not self.wires[wire]:
            return
        message = Message.decode(self.wires[wire].popleft())
        if wire == len(self.others):
            self.pipeline.come_back(message)
        else:
            after = loop().run(self.others[wire].pass_on([message]))
            self.wires[wire + 1].extend(each.encode() for each in after)

    def settle(self) -> None:
        """Let everything arrive."""
        for wire in range(len(self.wires)):
            while self.wires[wire]:
                self.step(wire)

    async def _send_whole(self, item: Outgoing) -> None:
        await self.pipeline.send(item)
        while isinstance(item, Frame) and self.pipeline.waits(item.sequence_id):
            await self.pipeline.advance(item.sequence_id)

    async def _send(self, *messages: Message) -> None:
        self.wires[0].extend(message.encode() for message in messages)

    def _cancel(self, cancel: Cancel) -> None:
        if self.heard_of_cancels:
            for stage in self.others:
                stage.cancel(cancel)


@cache
def loop() -> asyncio.Runner:
    return asyncio.Runner()


class Answers:
    """Answers of the demo over a ring, in turns that the test chooses."""

    def __init__(self, ring: Ring) -> None:
        model = demo()
        self.ring = ring
        coordinator = Coordinator(
            model.head,
            model.config.vocab_size,
            n_stages=ring.n_stages,
            frames_in_flight=ring.pipeline.frames_in_flight,
        )
        self.engine = Engine(coordinator, ring)

    def new_session(self) -> Session:
        return Session(Conversation(), self.engine.release)

    def ask(self, asked: Request, session: Session | None = None) -> tuple[Generation, list[Token]]:
        sequence = Conversation() if session is None else session.sequence
        writer = AnswerWriter(demo().tokenizer, sequence, asked, seed=1, limit=TOKENS)
        return Generation(self.engine, writer, close_session=session is None), []

    def advance(self, answer: tuple[Generation, list[Token]]) -> None:
        generation, written = answer
        if generation.finish_reason is None and (token := generation.advance()) is not None:
            written.append(token)

    def finish(self, *answers: tuple[Generation, list[Token]]) -> list[list[Token]]:
        while any(generation.finish_reason is None for generation, _ in answers):
            for answer in answers:
                self.advance(answer)
            self.ring.settle()
        return [written for _, written in answers]


def request(number: int) -> Request:
    sampling = SamplingParams(temperature=1.2 if number % 2 else 0.0, seed=1)
    return Request(PROMPTS[number], sampling, max_tokens=TOKENS, ignore_eos=True, detect_loops=False)


@cache
def wanted(number: int) -> list[Token]:
    return list(demo().generate(request(number)))


CUTS = st.sets(st.integers(1, N_LAYERS - 1), max_size=4).filter(bool).map(sorted)
TURNS = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.integers(0, 3)),
        st.tuples(st.just("step"), st.integers(0, 4)),
        st.tuples(st.just("cancel"), st.integers(0, 3)),
    ),
    max_size=60,
)


@settings(max_examples=25)
@given(CUTS, st.lists(st.integers(0, len(PROMPTS) - 1), min_size=1, max_size=4), TURNS, st.booleans())
def test_any_cut_and_any_order_of_events_give_the_tokens_of_one_process(
    ends: list[int], numbers: list[int], turns: list[tuple[str, int]], heard_of_cancels: bool
) -> None:
    ring = Ring(ends)
    ring.heard_of_cancels = heard_of_cancels
    answers = Answers(ring)
    sessions = [answers.new_session() for _ in numbers]
    running = [answers.ask(request(number), session) for number, session in zip(numbers, sessions, strict=True)]
    for what, which in turns:
        if what == "step":
            ring.step(which % len(ring.wires))
        elif what == "advance":
            answers.advance(running[which % len(running)])
        else:
            which %= len(running)
            running[which][0].close()
            running[which] = answers.ask(request(numbers[which]), sessions[which])
    assert answers.finish(*running) == [wanted(number) for number in numbers]
    for session in sessions:
        session.close()
    ring.settle()
    assert [stage.kv_positions for stage in ring.stages] == [0] * len(ring.stages)
    assert ring.pipeline.overdue(math.inf) == set()


SERIALS = itertools.count(1)


def send(ring: Ring, name: str, position: int, length: int, kind: FrameKind = FrameKind.PREFILL) -> int:
    """Send a frame of a sequence; return its serial."""
    embedded = demo().head.embed(mx.array(LONG[position : position + length]))
    ring.send(Frame(name, position, embedded, kind, serial := next(SERIALS)))
    return serial


def positions(returned: Sequence[Returned]) -> list[int]:
    """Return the positions of frames that came back. Raises what one of them failed of."""
    for each in returned:
        if isinstance(each, Refused):
            raise each.error
    return [each.position for each in returned if isinstance(each, Frame)]


A, B = "a" * 32, "b" * 32


def test_what_is_sent_comes_back_in_order_and_nothing_else_does() -> None:
    ring = Ring([2, 4])
    send(ring, A, 0, 32)
    send(ring, B, 0, 5)
    send(ring, A, 32, 8)
    assert ring.receive(A) == []
    ring.settle()
    assert positions(ring.receive(A)) == [0, 32]
    assert ring.receive(A) == []
    assert positions(ring.receive(B)) == [0]


def test_cancelled_frames_are_dropped_where_they_are_and_the_next_ones_run() -> None:
    ring = Ring([2, 4])
    send(ring, A, 0, 32)
    ring.settle()
    ring.receive(A)
    serial = send(ring, A, 32, 8)
    send(ring, B, 0, 4)
    ring.send(Cancel(A, serial))
    before = [stage.counts.frames for stage in ring.stages]
    ring.settle()
    assert [stage.counts.frames for stage in ring.stages[1:]] == [frames + 1 for frames in before[1:]]
    assert ring.receive(A) == []
    assert positions(ring.receive(B)) == [0]
    send(ring, A, 32, 4)
    ring.settle()
    assert positions(ring.receive(A)) == [32]
    assert all(not stage._cancelled for stage in ring.others)


def test_a_cancel_that_comes_late_is_not_remembered_for_ever() -> None:
    ring = Ring([3])
    serial = send(ring, A, 0, 4)
    ring.settle()
    ring.others[0].cancel(Cancel(A, serial))
    ring.others[0].cancel(Cancel(A, 0))
    assert ring.others[0]._cancelled == {A: serial}
    send(ring, B, 0, 4)
    ring.settle()
    assert ring.others[0]._cancelled == {}


def test_a_cancelled_chunk_is_dropped_although_steps_that_were_sent_later_overtake_it() -> None:
    ring = Ring([3])
    send(ring, B, 0, 4)
    ring.settle()
    serial = send(ring, A, 0, 32)
    ring.send(Frame(B, 4, demo().head.embed(mx.array(LONG[:1])), FrameKind.DECODE, next(SERIALS)))
    ring.send(Cancel(A, serial))
    ring.wires[0].reverse()
    ring.settle()
    assert ring.stages[1].counts.positions == 4 + 1


@pytest.mark.parametrize("stage", [0, 1])
def test_a_cancel_amid_a_chunk_takes_effect_before_it_is_computed_and_its_caches_are_as_before(stage: int) -> None:
    ring = Ring([3])
    send(ring, A, 0, 40)
    ring.settle()
    before = [each.kv_positions for each in ring.stages]

    async def scenario() -> None:
        frame = Frame(A, 40, demo().head.embed(mx.array(LONG[40:80])), FrameKind.PREFILL, serial := next(SERIALS))
        if stage == 0:
            computing = asyncio.create_task(ring.pipeline.send(frame))
        else:
            await ring._send_whole(frame)
            message = Message.decode(ring.wires[0].popleft())
            computing = asyncio.create_task(ring.others[0].pass_on([message]))
        await asyncio.sleep(0)
        assert ring.stages[stage].kv_positions == before[stage]  # the first layer is being computed, the last is not
        (ring.others[0] if stage else ring.pipeline).cancel(Cancel(A, serial))
        assert ring.stages[stage].kv_positions == before[stage]
        assert not await computing

    loop().run(scenario())
    assert not ring.wires[stage]
    send(ring, A, 40, 8)
    ring.settle()
    assert positions(ring.receive(A)) == [0, 40]


def test_a_fork_and_a_release_keep_their_place_among_the_frames() -> None:
    ring = Ring([1, 3])
    send(ring, A, 0, 32)
    ring.settle()
    ring.send(Fork(B, A, 32))
    ring.send(Release(A))
    send(ring, B, 32, 8)
    ring.settle()
    assert positions(ring.receive(B)) == [32]
    assert [stage.kv_positions for stage in ring.stages] == [40] * 3


def test_a_failure_in_a_stage_comes_back_to_its_request_alone() -> None:
    ring = Ring([2, 4])
    send(ring, A, 0, 4)
    send(ring, B, 0, 4)
    ring.settle()
    ring.stages[1].release(A)  # so that the next frame finds a hole there
    send(ring, A, 4, 1, FrameKind.DECODE)
    ring.settle()
    with pytest.raises(RewindError, match="node mac-2: a frame starts at position 4, but only 0") as raised:
        positions(ring.receive(A))
    assert raised.value.reached == 0
    assert positions(ring.receive(B)) == [0]


def test_a_fork_of_what_a_stage_has_lost_fails_with_the_next_frame() -> None:
    ring = Ring([3])
    send(ring, A, 0, 32)
    ring.settle()
    ring.stages[1].release(A)
    ring.send(Fork(B, A, 32))
    send(ring, B, 32, 1)
    ring.settle()
    with pytest.raises(RewindError, match="node mac-2"):
        positions(ring.receive(B))


def test_an_answer_runs_again_what_a_stage_has_lost() -> None:
    ring = Ring([2, 4])
    answers = Answers(ring)
    answer = answers.ask(request(3))
    while len(answer[1]) < 2:
        answers.advance(answer)
        ring.settle()
    for stage in ring.stages[1:]:
        for sequence_id in list(stage._caches):
            stage.release(sequence_id)
    assert answers.finish(answer) == [wanted(3)]


def test_nan_names_node_and_layer() -> None:
    ring = Ring([2, 4])
    layer = ring.stages[1].shard.layers[1]
    healthy = layer._input_norm
    layer._input_norm = lambda x: healthy(x) * mx.nan
    send(ring, A, 0, 4)
    ring.settle()
    layer._input_norm = healthy
    with pytest.raises(NumericsError, match="node mac-2, layer 3"):
        positions(ring.receive(A))


def change_last(ring: Ring, wire: int, **changes: Any) -> None:
    """Change the newest message on a wire, as a node that computes something else would send it."""
    message = Message.decode(ring.wires[wire].pop())
    ring.wires[wire].append(replace(message, **changes).encode())


def numbers(rows: int, dtype: Dtype = Dtype.FLOAT32, width: int | None = None) -> dict[str, Any]:
    width = width or demo().config.hidden_size
    return {"rows": rows, "width": width, "dtype": dtype, "payload": bytes(rows * width * ITEM_BYTES[dtype])}


@pytest.mark.parametrize(
    "changes",
    [
        lambda: numbers(4, width=1),
        lambda: numbers(4, width=demo().config.hidden_size + 1),
        lambda: numbers(4, Dtype.BFLOAT16),
        lambda: numbers(3),
        lambda: numbers(4) | {"position": 1},
        lambda: numbers(4) | {"payload": b"1234567"},
        lambda: numbers(4) | {"rows": 2**32 - 1, "width": 2**32 - 1},
    ],
    ids=["narrow", "wide", "dtype", "rows", "position", "bytes", "huge"],
)
def test_a_frame_that_returns_as_something_else_ends_its_request_alone(changes: Callable[[], dict[str, Any]]) -> None:
    ring = Ring([2, 4])
    send(ring, A, 0, 4)
    for wire in range(len(ring.others)):
        ring.step(wire)
    change_last(ring, -1, **changes())
    send(ring, B, 0, 4)
    ring.settle()
    with pytest.raises(FrameError, match=r"node mac-[13]"):
        positions(ring.receive(A))
    assert positions(ring.receive(B)) == [0]


def test_frames_and_failures_that_nobody_waits_for_are_dropped() -> None:
    ring = Ring([3])
    serial = send(ring, A, 0, 4)
    ring.step(0)
    returned = Message.decode(ring.wires[1][0])
    for changes in ({"serial": serial + 1}, {"serial": 0}, {"sequence_id": B}, {"kind": Kind.ROWS}):
        ring.pipeline.come_back(replace(returned, **changes))
    ring.pipeline.come_back(Message(Kind.FAILURE, B, EPOCH, serial, payload=b"error no"))
    assert not ring.returned
    ring.settle()
    ring.pipeline.come_back(returned)  # twice
    assert positions(ring.receive(A)) == [0]


def test_what_a_stage_says_of_its_memory_goes_around_the_ring() -> None:
    ring = Ring([2, 4])
    said = Message(Kind.MEMORY, "0" * 32, EPOCH, payload=b"short")
    assert loop().run(ring.others[1].pass_on([said])) == [said]
    ring.pipeline.come_back(said)  # the part takes it before
    assert not ring.returned


def test_a_stage_drops_what_is_no_message_of_the_ring_and_outlives_a_timeline_that_is_none() -> None:
    ring = Ring([3])
    stage = ring.others[0]
    assert loop().run(stage.pass_on([Message(Kind.PAIRS, A, EPOCH)])) == []
    (told,) = loop().run(stage.pass_on([Message(Kind.TIMELINES, A, EPOCH, payload=b"\xff\xff")]))
    assert [each.node for each in pb.Timelines.FromString(bytes(told.payload)).stages] == ["mac-2"]


@pytest.mark.parametrize(
    ("wire", "said"),
    [(1, "node mac-2 sent hidden states that are not finite to node mac-3"), (2, "node mac-3 returned 1 x .* finite")],
)
@pytest.mark.parametrize("written", [0, 2])
def test_nan_that_no_stage_admits_names_the_node_that_sent_it(wire: int, said: str, written: int) -> None:
    ring = Ring([2, 4])
    answers = Answers(ring)
    answer, other = answers.ask(request(3)), answers.ask(request(2))

    def go_on() -> None:
        while True:
            answers.advance(answer)
            for number in range(len(ring.wires)):
                while ring.wires[number]:
                    if number == wire and len(answer[1]) >= written:
                        n_bytes = len(Message.decode(ring.wires[wire][-1]).payload)
                        change_last(ring, wire, payload=np.full(n_bytes // 4, np.nan, np.float32).tobytes())
                    ring.step(number)

    with pytest.raises(NumericsError, match=said):
        go_on()
    assert answers.finish(other) == [wanted(2)]


def test_messages_of_another_epoch_are_dropped_at_both_ends() -> None:
    ring = Ring([3])
    old = Message(Kind.RELEASE, A, epoch=EPOCH - 1)
    assert loop().run(ring.others[0].pass_on([old])) == []
    send(ring, A, 0, 4)
    ring.step(0)
    message = Message.decode(ring.wires[1].popleft())
    ring.pipeline.come_back(replace(message, epoch=EPOCH - 1))
    assert ring.receive(A) == []
    ring.pipeline.come_back(message)
    assert positions(ring.receive(A)) == [0]


def test_frames_are_overdue_when_the_ring_is_silent_for_long() -> None:
    ring = Ring([3])
    send(ring, A, 0, 4)
    now_s = time.monotonic()
    assert (ring.pipeline.overdue(now_s), ring.pipeline.overdue(now_s + 3600)) == (set(), {A})
    ring.settle()
    assert ring.pipeline.overdue(now_s + 3600) == set()


def test_a_ring_that_always_has_frames_is_not_silent_while_some_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ring, began_s = Ring([3]), time.monotonic()
    send(ring, A, 0, 1)
    send(ring, B, 0, 1)
    monkeypatch.setattr(time, "monotonic", lambda: began_s + 3600)
    for wire in range(len(ring.wires)):
        ring.step(wire)  # the first frame
    assert ring.pipeline.overdue(began_s + 3601) == set()
    assert ring.pipeline.overdue(began_s + 7200) == {B}


def test_timelines_gather_what_each_stage_did_with_each_frame_in_the_order_of_the_ring() -> None:
    ring = Ring([2, 4])
    answers = Answers(ring)
    answers.finish(answers.ask(request(3)))
    loop().run(ring.pipeline.ask_timelines("ab" * 16))
    for wire in range(len(ring.others)):
        while ring.wires[wire]:
            ring.step(wire)
    *_, told = (Message.decode(data) for data in ring.wires[-1])
    own = ring.pipeline.recording.take()
    timeline = Timeline.read([own, *pb.Timelines.FromString(bytes(told.payload)).stages])
    assert (told.kind, told.sequence_id) == (Kind.TIMELINES, "ab" * 16)
    assert [stage.node for stage in timeline.stages] == ["mac-1", "mac-2", "mac-3"]
    frames = [[(s.serial, s.kind, s.position, s.rows) for s in stage.of(*FRAMES)] for stage in timeline.stages]
    assert frames[0] == frames[1] == frames[2]
    assert len(frames[0]) == len(timeline.stages[0].of(SpanKind.RETURN)) == 3 + TOKENS - 1  # 90 positions, by 32
    assert all(s.arrived_s <= s.began_s <= s.ended_s for stage in timeline.stages for s in stage.spans)
    assert ring.pipeline.recording.take() == pb.StageTimeline(node="mac-1")

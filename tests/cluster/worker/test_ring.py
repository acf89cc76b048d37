"""Ring: a coordinator whose stages are elsewhere gets what it would get from stages in its own process.

The wires between the stages are queues, and a message crosses one when the test says so.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mlx_moe
from cluster.timeline import FRAMES, SpanKind, Timeline
from cluster.wire import worker_pb2 as pb
from cluster.worker.messages import Kind, Message
from cluster.worker.ring import RingLink, RingStage
from mlx_moe.decoding.chunking import DEFAULT_RULE
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.request import Request, Token
from mlx_moe.decoding.session import Session
from mlx_moe.errors import FrameError, NumericsError
from mlx_moe.model import LocalModel
from mlx_moe.pipeline.frame import Frame, FrameKind
from mlx_moe.pipeline.shard import ShardSpec
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
    """A link and the stages behind it. `wires[i]` leads to stage i + 1, the last one back to the link."""

    def __init__(self, ends: Sequence[int]) -> None:
        first, *others = stages(ends)
        self.stages = [first, *others]
        self.others = [RingStage(stage, EPOCH) for stage in others]
        self.wires: list[deque[bytes]] = [deque() for _ in self.stages]
        self.link = RingLink(first, len(self.stages), EPOCH, self._send, self._cancel)
        self.heard_of_cancels = True

    def step(self, wire: int) -> None:
        """Let the oldest message on a wire arrive, and be passed on."""
        if not self.wires[wire]:
            return
        message = Message.decode(self.wires[wire].popleft())
        if wire == len(self.others):
            self.link.come_back(message)
        elif after := self.others[wire].pass_on(message):
            self.wires[wire + 1].append(after.encode())

    def settle(self) -> None:
        """Let everything arrive."""
        for wire in range(len(self.wires)):
            while self.wires[wire]:
                self.step(wire)

    def _send(self, message: Message) -> None:
        self.wires[0].append(message.encode())

    def _cancel(self, request_id: str, serial: int) -> None:
        if self.heard_of_cancels:
            for stage in self.others:
                stage.cancel(request_id, serial)


class Answers:
    """Answers of the demo over a ring, in turns that the test chooses."""

    def __init__(self, ring: Ring) -> None:
        model = demo()
        self.ring = ring
        self.coordinator = Coordinator(model._coordinator._head, ring.link, model.config.vocab_size)

    def ask(self, asked: Request, session: Session | None = None) -> tuple[Generation, list[Token]]:
        generation = Generation(
            self.coordinator,
            demo().tokenizer,
            asked,
            session or self.coordinator.new_session(),
            seed=1,
            limit=TOKENS,
            close_session=session is None,
        )
        return generation, []

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
    sessions = [answers.coordinator.new_session() for _ in numbers]
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
    assert not ring.link._sent


def sent_frame(ring: Ring, name: str, position: int, length: int, kind: FrameKind = FrameKind.PREFILL) -> str:
    embedded = demo()._coordinator._head.embed(mx.array(LONG[position : position + length]))
    ring.link.send(Frame(name, position, embedded, kind))
    return name


A, B = "a" * 32, "b" * 32


def test_what_is_sent_comes_back_in_order_and_nothing_else_does() -> None:
    ring = Ring([2, 4])
    sent_frame(ring, A, 0, 32)
    sent_frame(ring, B, 0, 5)
    sent_frame(ring, A, 32, 8)
    assert ring.link.receive(A) is None
    ring.settle()
    first, second = ring.link.receive(A), ring.link.receive(A)
    assert first is not None
    assert second is not None
    assert (first.position, second.position) == (0, 32)
    assert ring.link.receive(A) is None
    assert ring.link.receive(B) is not None


def test_cancelled_frames_are_dropped_where_they_are_and_the_next_ones_run() -> None:
    ring = Ring([2, 4])
    sent_frame(ring, A, 0, 32)
    ring.settle()
    sent_frame(ring, A, 32, 8)
    sent_frame(ring, B, 0, 4)
    ring.link.cancel(A)
    before = [stage.counts.frames for stage in ring.stages]
    ring.settle()
    assert [stage.counts.frames for stage in ring.stages[1:]] == [frames + 1 for frames in before[1:]]
    assert ring.link.receive(A) is None
    assert ring.link.receive(B) is not None
    sent_frame(ring, A, 32, 4)
    ring.settle()
    assert ring.link.receive(A) is not None
    assert all(not stage._cancelled for stage in ring.others)


def test_a_cancel_that_comes_late_is_not_remembered_for_ever() -> None:
    ring = Ring([3])
    sent_frame(ring, A, 0, 4)
    ring.settle()
    ring.others[0].cancel(A, 1)
    ring.others[0].cancel(A, 0)
    assert ring.others[0]._cancelled == {A: 1}
    sent_frame(ring, B, 0, 4)
    ring.settle()
    assert ring.others[0]._cancelled == {}


def test_a_fork_and_a_release_keep_their_place_among_the_frames() -> None:
    ring = Ring([1, 3])
    sent_frame(ring, A, 0, 32)
    ring.settle()
    ring.link.fork(A, B, 32)
    ring.link.release(A)
    sent_frame(ring, B, 32, 8)
    ring.settle()
    assert ring.link.receive(B) is not None
    assert [stage.kv_positions for stage in ring.stages] == [40] * 3


def test_a_failure_in_a_stage_comes_back_to_its_request_alone() -> None:
    ring = Ring([2, 4])
    sent_frame(ring, A, 0, 4)
    sent_frame(ring, B, 0, 4)
    ring.step(0)
    ring.stages[1].release(A)  # so that the next frame finds a hole there
    sent_frame(ring, A, 4, 1, FrameKind.DECODE)
    ring.settle()
    assert ring.link.receive(A) is not None
    with pytest.raises(FrameError, match="node mac-2: a frame starts at position 4, but only 0"):
        ring.link.receive(A)
    assert ring.link.receive(B) is not None


def test_a_fork_of_what_a_stage_has_lost_fails_with_the_next_frame() -> None:
    ring = Ring([3])
    sent_frame(ring, A, 0, 32)
    ring.settle()
    ring.stages[1].release(A)
    ring.link.fork(A, B, 32)
    sent_frame(ring, B, 32, 1)
    ring.settle()
    with pytest.raises(FrameError, match="node mac-2"):
        ring.link.receive(B)


def test_nan_names_node_and_layer() -> None:
    ring = Ring([2, 4])
    layer = ring.stages[1].shard.layers[1]
    healthy, layer._input_norm = layer._input_norm, layer._input_norm * mx.nan
    sent_frame(ring, A, 0, 4)
    ring.settle()
    layer._input_norm = healthy
    with pytest.raises(NumericsError, match="node mac-2, layer 3"):
        ring.link.receive(A)


def test_messages_of_another_epoch_are_dropped_at_both_ends() -> None:
    ring = Ring([3])
    old = Message(Kind.RELEASE, A, epoch=EPOCH - 1)
    assert ring.others[0].pass_on(old) is None
    sent_frame(ring, A, 0, 4)
    ring.step(0)
    message = Message.decode(ring.wires[1].popleft())
    assert ring.link.come_back(replace(message, epoch=EPOCH - 1)) is None
    assert ring.link.receive(A) is None
    assert ring.link.come_back(message) == A


def test_timelines_gather_what_each_stage_did_with_each_frame_in_the_order_of_the_ring() -> None:
    ring = Ring([2, 4])
    answers = Answers(ring)
    answers.finish(answers.ask(request(3)))
    ring.link.ask_timelines("ab" * 16)
    for wire in range(len(ring.others)):
        while ring.wires[wire]:
            ring.step(wire)
    *_, told = (Message.decode(data) for data in ring.wires[-1])
    own = ring.link.recording.take()
    timeline = Timeline.read(pb.Timelines.FromString(own + bytes(told.payload)).stages)
    assert (told.kind, told.request_id) == (Kind.TIMELINES, "ab" * 16)
    assert [stage.node for stage in timeline.stages] == ["mac-1", "mac-2", "mac-3"]
    frames = [[(s.serial, s.kind, s.position, s.rows) for s in stage.of(*FRAMES)] for stage in timeline.stages]
    assert frames[0] == frames[1] == frames[2]
    assert len(frames[0]) == len(timeline.stages[0].of(SpanKind.RETURN)) == 3 + TOKENS - 1  # 90 positions, by 32
    assert all(s.arrived_s <= s.began_s <= s.ended_s for stage in timeline.stages for s in stage.spans)
    assert ring.link.recording.take() == pb.Timelines(stages=[pb.StageTimeline(node="mac-1")]).SerializeToString()

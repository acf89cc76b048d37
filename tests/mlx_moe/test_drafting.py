"""Drafting: drafts change how fast an answer is written, never a bit of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_moe import coordinator as coordinator_module
from mlx_moe import library
from mlx_moe.coordinator import Coordinator
from mlx_moe.drafting import Drafter, MTPDrafter, NgramDrafter, SmallModel
from mlx_moe.drafting.drafter import Choose
from mlx_moe.errors import NumericsError
from mlx_moe.frame import Frame, FrameKind
from mlx_moe.generation import Generation
from mlx_moe.kv_cache import GROWTH
from mlx_moe.layers.decoder import DecoderLayer
from mlx_moe.link import LocalLink
from mlx_moe.request import Request, Token
from mlx_moe.sampling import SamplingParams
from mlx_moe.session import Session
from mlx_moe.speculation import Acceptance
from mlx_moe.tokenizer import Tokenizer
from tests import oracles
from tests.engine import Engine, load_engine
from tests.mlx_moe.slow_link import SlowLink

GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=1.0, top_p=1.0)
PENALIZED = SamplingParams(temperature=0.8, repetition_penalty=1.3, presence_penalty=0.5, frequency_penalty=0.5)
LAYERS = {1: [range(6)], 2: [range(3), range(3, 6)], 3: [range(2), range(2, 4), range(4, 6)]} | {
    6: [range(i, i + 1) for i in range(6)]
}
STORY = "Tell me a story."


@cache
def engine(n_stages: int) -> Engine:
    return load_engine(library.locate("demo"), LAYERS[n_stages])


@cache
def tokenizer() -> Tokenizer:
    return Tokenizer.load(library.locate("demo"))


@cache
def prompt(text: str) -> tuple[int, ...]:
    return tuple(tokenizer().format_chat([{"role": "user", "content": text}]))


class Pipeline:
    """The demo model in stages behind a SlowLink."""

    def __init__(
        self, n_stages: int, new_drafter: Callable[[], Drafter] | None = None, kv_positions: int | None = None
    ) -> None:
        self.engine = engine(n_stages)
        self.link = SlowLink(self.engine.link.stages)
        head, vocab_size = self.engine.head, self.engine.config.vocab_size
        self.coordinator = Coordinator(head, self.link, vocab_size, kv_positions, new_drafter)

    def ask(self, request: Request, session: Session | None = None, seed: int = 5) -> Generation:
        return answer(self.coordinator, request, session, seed)

    def finish(self, *answers: Generation, steps: Sequence[int | None] = (None,)) -> list[list[Token]]:
        """Advance answers in turns until all have ended; after each turn the stages named next in `steps` work."""
        tokens: list[list[Token]] = [[] for _ in answers]
        stages = cycle(steps)
        while any(a.finish_reason is None for a in answers):
            for a, written in zip(answers, tokens, strict=True):
                if a.finish_reason is None and (token := a.advance()) is not None:
                    written.append(token)
                self.link.step(next(stages))
        return tokens

    def close(self) -> None:
        for session in list(self.coordinator._sessions.values()):
            session.close()
        self.link.settle()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    yield
    for n_stages in LAYERS:
        assert [stage.kv_positions for stage in engine(n_stages).link.stages] == [0] * n_stages


def answer(coordinator: Coordinator, request: Request, session: Session | None = None, seed: int = 5) -> Generation:
    assert request.max_tokens is not None
    return Generation(
        coordinator,
        tokenizer(),
        request,
        session or coordinator.new_session(),
        seed=seed,
        limit=request.max_tokens,
        close_session=session is None,
    )


def ask_for(
    input_ids: Sequence[int], max_tokens: int = 24, sampling: SamplingParams = GREEDY, *, ignore_eos: bool = True
) -> Request:
    return Request(tuple(input_ids), sampling, max_tokens, ignore_eos=ignore_eos, detect_loops=False)


@cache
def plain(request: Request, seed: int = 5) -> list[Token]:
    """Return what the model writes alone, in one stage."""
    one = engine(1)
    return list(answer(Coordinator(one.head, LocalLink(one.link.stages), one.config.vocab_size), request, seed=seed))


class Scripted:
    """A drafter that knows the answer, and is right where the script says so."""

    observes = False

    def __init__(self, known: Sequence[int], right: Sequence[bool | None]) -> None:
        self._known = known
        self._script = cycle(right)

    def observe(self, hidden_states: mx.array, token_ids: Sequence[int]) -> None:  # noqa: ARG002
        raise AssertionError("it asks for none")

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int | None:
        assert in_flight[0] == self._known[len(token_ids)]
        choose(mx.zeros(engine(1).config.vocab_size))  # as real ones do; the sampler keeps counts
        right = next(self._script)
        true = self._known[len(token_ids) + len(in_flight)]
        return None if right is None else true if right else (true + 1) % 1000

    def rewind(self, position: int) -> None:
        pass

    def fork(self, positions: int) -> Scripted:  # noqa: ARG002
        return self


@dataclass(frozen=True)
class Case:
    request: Request
    right: tuple[bool | None, ...]


CASES = st.builds(
    Case,
    st.builds(
        ask_for,
        st.sampled_from([oracles.random_ids(n, 200, seed=n) for n in (1, 32, 45)]),
        st.integers(1, 16),
        st.sampled_from([GREEDY, SAMPLED, PENALIZED]),
    ),
    st.lists(st.sampled_from([True, True, False, None]), min_size=1, max_size=12).map(tuple),
)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    n_stages=st.sampled_from([2, 3, 6]),
    cases=st.lists(CASES, min_size=1, max_size=3),
    steps=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    closed_at=st.none() | st.integers(0, 60),
)
def test_any_drafts_over_any_stages_at_any_pace_give_what_plain_decoding_gives(
    n_stages: int, cases: list[Case], steps: list[int], closed_at: int | None
) -> None:
    pipeline = Pipeline(n_stages)
    pipeline.coordinator._acceptance = _Certain()
    answers = []
    for case in cases:
        session = pipeline.coordinator.new_session()
        known = [*case.request.input_ids, *(token.id for token in plain(case.request))]
        session.drafter = Scripted(known, case.right)
        answers.append(pipeline.ask(case.request, session))
    if closed_at is not None:
        cancelled = pipeline.ask(cases[0].request)
        for turn in range(closed_at):
            if cancelled.finish_reason is None:
                cancelled.advance()
            pipeline.link.step(steps[turn % len(steps)] % n_stages)
        cancelled.close()
    written = pipeline.finish(*answers, steps=[*(step % n_stages for step in steps), None])
    assert written == [plain(case.request) for case in cases]
    pipeline.close()


class _Certain(Acceptance):
    """Trusts every draft, so that as many are made as there are stages."""

    def rate(self, depth: int) -> float:  # noqa: ARG002
        return 1.0


@pytest.mark.parametrize("turns", range(0, 40, 8))
def test_an_answer_closed_amid_its_drafts_leaves_its_session_sound(turns: int) -> None:
    layer = engine(3).mtp
    assert layer is not None
    pipeline = Pipeline(3, lambda: MTPDrafter(layer))
    session = pipeline.coordinator.new_session()
    request = ask_for(prompt(STORY))
    closed = pipeline.ask(request, session)
    for _ in range(turns):
        closed.advance()
        pipeline.link.step(turns % 3)
    closed.close()
    assert pipeline.finish(pipeline.ask(request, session)) == [plain(request)]
    pipeline.close()


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, PENALIZED], ids=["greedy", "sampled", "penalized"])
@pytest.mark.parametrize("n_stages", [2, 3, 6])
def test_the_models_own_mtp_layer_drafts_many_right_and_changes_nothing(
    n_stages: int, sampling: SamplingParams
) -> None:
    layer = engine(n_stages).mtp
    assert layer is not None
    pipeline = Pipeline(n_stages, lambda: MTPDrafter(layer))
    request = ask_for(prompt(STORY), 48, sampling)
    speculative = pipeline.ask(request)
    assert pipeline.finish(speculative) == [plain(request)]
    stats = speculative.stats
    assert stats.drafted >= sum(stats.compared_by_depth) >= stats.accepted == sum(stats.accepted_by_depth) >= 12
    assert len(stats.compared_by_depth) <= n_stages - 1
    pipeline.close()


def test_a_chat_turn_after_drafts_and_a_prompt_that_was_edited_are_answered_as_without_drafts() -> None:
    layer = engine(3).mtp
    assert layer is not None
    drafting, without = Pipeline(3, lambda: MTPDrafter(layer)), Pipeline(3)
    sessions = drafting.coordinator.new_session(), without.coordinator.new_session()
    ids = [*prompt(STORY), *oracles.random_ids(70, 200), *prompt("What is an expert?")]
    edited = [*ids[:90], 7, *ids[91:]]
    turns = [ids, [*ids, *(t.id for t in plain(ask_for(ids))), *prompt("Go on.")], edited]
    for turn in turns:
        answers = [p.ask(ask_for(turn), s) for p, s in zip((drafting, without), sessions, strict=True)]
        assert drafting.finish(answers[0]) == without.finish(answers[1])
        assert answers[0].stats.cached_tokens == answers[1].stats.cached_tokens
        assert answers[0].stats.accepted > 0
    drafting.close()
    without.close()


def test_a_session_that_begins_with_anothers_prompt_drafts_from_what_that_one_knows() -> None:
    layer = engine(3).mtp
    assert layer is not None
    pipeline = Pipeline(3, lambda: MTPDrafter(layer))
    lender = pipeline.coordinator.new_session()
    ids = [*oracles.random_ids(64, 200), *prompt(STORY)]
    pipeline.finish(pipeline.ask(ask_for(ids, 40), lender))
    borrower = pipeline.ask(ask_for(ids, 40))
    assert pipeline.finish(borrower) == [plain(ask_for(ids, 40))]
    assert borrower.stats.cached_tokens == 64
    assert borrower.stats.accepted > 8
    pipeline.close()


def test_a_small_model_drafts_and_the_same_model_is_always_right() -> None:
    small = SmallModel(load_engine(library.locate("demo")).link.stages[0], engine(1).head)
    pipeline = Pipeline(3, small.drafter)
    requests = [ask_for([*oracles.random_ids(300, 200), *prompt(STORY)], 40), ask_for(prompt(STORY), 40, SAMPLED)]
    for request in requests:
        speculative = pipeline.ask(request)
        assert pipeline.finish(speculative) == [plain(request)]
        assert speculative.stats.accepted == sum(speculative.stats.compared_by_depth) > 20
    pipeline.close()
    assert small.stage.kv_positions == 0


def test_ngrams_draft_what_stood_in_the_prompt() -> None:
    pipeline = Pipeline(3, NgramDrafter)
    count = tokenizer().encode("Count from 1 to 30. " + ", ".join(str(i) for i in range(1, 31)) + ". Count: 1, 2, 3,")
    speculative = pipeline.ask(ask_for(count, 32))
    assert pipeline.finish(speculative) == [plain(ask_for(count, 32))]
    assert speculative.stats.accepted > 4
    pipeline.close()


def test_a_full_pipeline_drafts_nothing() -> None:
    layer = engine(3).mtp
    assert layer is not None
    pipeline = Pipeline(3, lambda: MTPDrafter(layer))
    answers = [pipeline.ask(ask_for(prompt(STORY), 40), seed=seed) for seed in range(3)]
    for a in answers:
        a.advance()
    pipeline.finish(*answers)
    assert [a.stats.drafted for a in answers] == [0, 0, 0]
    pipeline.close()


def test_drafts_never_take_room_from_another_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordinator_module, "RESERVE", 4)
    ids = oracles.random_ids(GROWTH - 12, 200)
    pipeline = Pipeline(3, kv_positions=2 * GROWTH)
    pipeline.coordinator._acceptance = _Certain()
    resting, session = pipeline.coordinator.new_session(), pipeline.coordinator.new_session()
    pipeline.finish(pipeline.ask(ask_for(prompt(STORY), 4), resting))
    known = [*ids, *(token.id for token in plain(ask_for(ids, 20)))]
    session.drafter = Scripted(known, [True])
    unbounded = Request(tuple(ids), GREEDY, ignore_eos=True, detect_loops=False)
    growing = Generation(pipeline.coordinator, tokenizer(), unbounded, session, seed=5, limit=20, close_session=False)
    while len(session.token_ids) < GROWTH - 1:
        growing.advance()
        pipeline.link.step()
    for _ in range(4):  # the newest token stands at the last position that is reserved, or before
        pipeline.link.step(0)
    assert growing.stats.accepted > 4
    assert resting.token_ids
    growing.close()
    pipeline.close()


@pytest.mark.parametrize("length", [2, 31, 32, 33])
def test_a_chunk_ends_with_the_same_bits_whether_one_output_is_asked_for_or_all(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_layer = DecoderLayer.__call__

    def rounded_by_shape(*args: Any, **outputs: Any) -> mx.array:  # as kernels of another shape do on a GPU
        rows = run_layer(*args, **outputs)
        return rows * (1 + 1e-3 * rows.shape[0])

    monkeypatch.setattr(DecoderLayer, "__call__", rounded_by_shape)
    (stage,) = engine(1).link.stages
    embedded = engine(1).head.embed(mx.array(oracles.random_ids(length, 200)))
    one, every = (stage.run(Frame("r", 0, embedded, FrameKind.PREFILL, outputs=n)).hidden_states for n in (1, None))
    kept_after_all = stage.run(Frame("r", length, embedded[:1], FrameKind.DECODE)).hidden_states
    stage.run(Frame("r", 0, embedded, FrameKind.PREFILL, outputs=1))
    kept_after_one = stage.run(Frame("r", length, embedded[:1], FrameKind.DECODE)).hidden_states
    stage.release("r")
    assert every.shape[0] == length
    assert mx.array_equal(every[-1:], one)
    assert mx.array_equal(kept_after_all, kept_after_one)


def test_a_chain_starts_anew_from_what_the_model_said_and_forgets_its_guesses() -> None:
    one = engine(1)
    assert one.mtp is not None
    ids = [*prompt(STORY), *(token.id for token in plain(ask_for(prompt(STORY), 24)))]
    hidden_states = one.hidden_states(ids, [len(ids)])
    one.link.release("r")
    seen: list[mx.array] = []

    def choose(logits: mx.array) -> int:
        seen.append(logits)
        return int(mx.argmax(logits).item())

    drafter = MTPDrafter(one.mtp)
    drafter.observe(hidden_states[:8], ids[:8])
    wrong = drafter.draft(ids[:8], [999], choose)
    drafter.draft(ids[:8], [999, wrong], choose)
    drafter.rewind(7)
    for position in range(7, 10):
        drafter.observe(hidden_states[position : position + 1], ids[: position + 1])
        drafter.draft(ids[: position + 1], [ids[position + 1]], choose)
    fresh = MTPDrafter(one.mtp)
    fresh.observe(hidden_states[:10], ids[:10])
    fresh.draft(ids[:10], [ids[10]], choose)
    assert mx.allclose(seen[-1], seen[-2], atol=1e-4).item()


def test_a_layer_that_fails_amid_drafts_is_named() -> None:
    layer = engine(3).mtp
    assert layer is not None
    pipeline = Pipeline(3, lambda: MTPDrafter(layer))
    session = pipeline.coordinator.new_session()
    failing = pipeline.ask(ask_for(prompt(STORY), 40), session)
    while failing.stats.accepted < 3:
        failing.advance()
        pipeline.link.step()
    broken = pipeline.engine.link.stages[1].shard.layers[1]
    healthy, broken._input_norm = broken._input_norm, broken._input_norm * mx.nan
    with pytest.raises(NumericsError, match="node node-1, layer 3"):
        pipeline.finish(failing)
    broken._input_norm = healthy
    assert pipeline.finish(pipeline.ask(ask_for(prompt(STORY)), session)) == [plain(ask_for(prompt(STORY)))]
    pipeline.close()


def test_a_frame_sent_again_voids_those_at_its_position_and_later() -> None:
    pipeline = Pipeline(3)
    rows = mx.random.normal((3, pipeline.engine.config.hidden_size))
    for link in (pipeline.link, LocalLink(pipeline.engine.link.stages)):
        for position in (0, 1, 2, 1):
            link.send(Frame("r", position, rows[position : position + 1], FrameKind.DECODE))
        pipeline.link.settle()
        frames = [link.receive("r") for _ in range(2)]
        assert [frame.position for frame in frames if frame is not None] == [0, 1]
        with pytest.raises((AssertionError, IndexError)):
            link.receive("r")
        link.release("r")
    pipeline.close()

"""Drafting: drafts change how fast an answer is written, never a bit of it."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_moe.checkpoint import library
from mlx_moe.decoding import scheduler as scheduler_module
from mlx_moe.decoding.drafting import NgramDrafter, SmallModel
from mlx_moe.decoding.request import Request
from mlx_moe.errors import NumericsError
from mlx_moe.layers.cache_costs import GROWTH
from tests import oracles
from tests.engine import load_engine
from tests.mlx_moe.demo_pipeline import (
    GREEDY,
    PENALIZED,
    SAMPLED,
    STORY,
    Certain,
    Pipeline,
    Scripted,
    answer,
    ask_for,
    engine,
    mtp_drafter,
    nothing_is_left,  # noqa: F401
    plain,
    prompt,
    tokenizer,
)

pytestmark = pytest.mark.slow


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


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
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
    pipeline.coordinator.acceptance = Certain()
    answers = []
    for case in cases:
        session = pipeline.new_session()
        known = [*case.request.input_ids, *(token.id for token in plain(case.request))]
        pipeline.coordinator.drafters[session.id] = Scripted(known, case.right)
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


@pytest.mark.parametrize("turns", range(0, 40, 8))
def test_an_answer_closed_amid_its_drafts_leaves_its_session_sound(turns: int) -> None:
    pipeline = Pipeline(3, mtp_drafter)
    session = pipeline.new_session()
    request = ask_for(prompt(STORY))
    closed = pipeline.ask(request, session)
    for _ in range(turns):
        closed.advance()
        pipeline.link.step(turns % 3)
    closed.close()
    assert pipeline.finish(pipeline.ask(request, session)) == [plain(request)]
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
    pipeline = Pipeline(3, mtp_drafter)
    answers = [pipeline.ask(ask_for(prompt(STORY), 40), seed=seed) for seed in range(3)]
    for a in answers:
        a.advance()
    pipeline.finish(*answers)
    assert [a.stats.drafted for a in answers] == [0, 0, 0]
    pipeline.close()


def test_drafts_never_take_room_from_another_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "RESERVE", 4)
    ids = oracles.random_ids(GROWTH - 12, 200)
    pipeline = Pipeline(3, kv_positions=2 * GROWTH)
    pipeline.coordinator.acceptance = Certain()
    resting, session = pipeline.new_session(), pipeline.new_session()
    pipeline.finish(pipeline.ask(ask_for(prompt(STORY), 4), resting))
    known = [*ids, *(token.id for token in plain(ask_for(ids, 20)))]
    pipeline.coordinator.drafters[session.id] = Scripted(known, [True])
    unbounded = Request(tuple(ids), GREEDY, ignore_eos=True, detect_loops=False)
    growing = answer(pipeline.answers, unbounded, session, limit=20)
    while len(session.sequence.token_ids) < GROWTH - 1:
        growing.advance()
        pipeline.link.step()
    for _ in range(4):  # the newest token stands at the last position that is reserved, or before
        pipeline.link.step(0)
    assert growing.stats.accepted > 4
    assert resting.sequence.token_ids
    growing.close()
    pipeline.close()


def test_a_layer_that_fails_amid_drafts_is_named() -> None:
    pipeline = Pipeline(3, mtp_drafter)
    session = pipeline.new_session()
    failing = pipeline.ask(ask_for(prompt(STORY), 40), session)
    while failing.stats.accepted < 3:
        failing.advance()
        pipeline.link.step()
    broken = pipeline.engine.link.stages[1].shard.layers[1]
    healthy = broken._input_norm
    broken._input_norm = lambda x: healthy(x) * mx.nan
    with pytest.raises(NumericsError, match="node node-1, layer 3"):
        pipeline.finish(failing)
    broken._input_norm = healthy
    assert pipeline.finish(pipeline.ask(ask_for(prompt(STORY)), session)) == [plain(ask_for(prompt(STORY)))]
    pipeline.close()

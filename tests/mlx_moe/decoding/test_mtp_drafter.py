"""MTPDrafter: the model's own layer drafts, when there is time for it."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_moe.decoding.drafting import MTPDrafter, backlog
from mlx_moe.layers.cache import LayerCache
from mlx_moe.pipeline.frame import Release
from mlx_moe.pipeline.mtp import MultiTokenPrediction
from mlx_moe.sampling_params import SamplingParams
from tests import oracles
from tests.mlx_moe.demo_pipeline import (
    GREEDY,
    PENALIZED,
    SAMPLED,
    STORY,
    Pipeline,
    ask_for,
    engine,
    mtp_drafter,
    nothing_is_left,  # noqa: F401
    plain,
    prompt,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that will have the number of positions of each step of the layer."""
    steps: list[int] = []
    run = MultiTokenPrediction.__call__

    def counted(
        layer: MultiTokenPrediction, hidden_states: mx.array, next_ids: mx.array, cache: LayerCache, outputs: int
    ) -> tuple[mx.array, mx.array]:
        steps.append(hidden_states.shape[0])
        return run(layer, hidden_states, next_ids, cache, outputs=outputs)

    monkeypatch.setattr(MultiTokenPrediction, "__call__", counted)
    return steps


def test_the_prompt_is_run_while_the_first_stage_idles_and_the_rest_of_it_for_the_first_draft(ran: list[int]) -> None:
    pipeline = Pipeline(3, mtp_drafter)
    answer = pipeline.ask(ask_for(oracles.random_ids(140, 200), 4))
    while answer.stats.generated_tokens == 0:
        if answer.advance() is None:
            pipeline.link.step()
    assert ran == [63, 32, 32]  # nothing before the last of five chunks was sent, then all but the newest position
    while answer.stats.drafted == 0:
        answer.advance()
    assert ran == [63, 32, 32, 13]
    answer.close()
    pipeline.close()


def test_the_layer_never_runs_in_a_full_pipeline(ran: list[int]) -> None:
    pipeline = Pipeline(3, mtp_drafter)
    answers = [pipeline.ask(ask_for(oracles.random_ids(70, 200, seed=seed), 24)) for seed in range(3)]
    for answer in answers:
        answer.advance()
    pipeline.finish(*answers)
    assert ran == []
    pipeline.close()


@pytest.mark.parametrize("end", [18, 12, 10, 3])
def test_where_the_oldest_hidden_states_are_given_up_the_layer_goes_on_from_the_others(
    end: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "KEPT", 8)
    ids = oracles.random_ids(20, 200)
    states = mx.random.normal((20, engine(3).config.hidden_size), key=mx.random.key(1))
    seen: list[mx.array] = []

    def choose(logits: mx.array) -> int:
        seen.append(logits)
        return 0

    drafter = mtp_drafter()
    drafter.observe(states[:2], ids[:2])
    drafter.draft(ids[:2], [ids[2]], choose)
    for position in range(2, 18, 4):
        drafter.observe(states[position : position + 4], ids[: position + 4])  # in the end from 10 on are left
    drafter.rewind(end)
    drafter = drafter.fork(end)
    drafter.observe(states[end : end + 1], ids[: end + 1])
    drafter.draft(ids[: end + 1], [ids[end + 1]], choose)
    start = min(end, 10)
    fresh = mtp_drafter()
    fresh.observe(states[start : end + 1], ids[start : end + 1])
    fresh.draft(ids[start : end + 1], [ids[end + 1]], choose)
    assert mx.allclose(seen[-1], seen[-2], atol=1e-4).item()


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, PENALIZED], ids=["greedy", "sampled", "penalized"])
@pytest.mark.parametrize("n_stages", [2, 3, 6])
def test_the_models_own_mtp_layer_drafts_many_right_and_changes_nothing(
    n_stages: int, sampling: SamplingParams
) -> None:
    pipeline = Pipeline(n_stages, mtp_drafter)
    request = ask_for(prompt(STORY), 48, sampling)
    speculative = pipeline.ask(request)
    assert pipeline.finish(speculative) == [plain(request)]
    stats = speculative.stats
    assert stats.drafted >= sum(stats.compared_by_depth) >= stats.accepted == sum(stats.accepted_by_depth) >= 12
    assert len(stats.compared_by_depth) <= n_stages - 1
    pipeline.close()


def test_a_chat_turn_after_drafts_and_a_prompt_that_was_edited_are_answered_as_without_drafts() -> None:
    drafting, without = Pipeline(3, mtp_drafter), Pipeline(3)
    sessions = drafting.new_session(), without.new_session()
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
    pipeline = Pipeline(3, mtp_drafter)
    lender = pipeline.new_session()
    ids = [*oracles.random_ids(64, 200), *prompt(STORY)]
    pipeline.finish(pipeline.ask(ask_for(ids, 40), lender))
    borrower = pipeline.ask(ask_for(ids, 40))
    assert pipeline.finish(borrower) == [plain(ask_for(ids, 40))]
    assert borrower.stats.cached_tokens == 64
    assert borrower.stats.accepted > 8
    pipeline.close()


def test_a_chain_starts_anew_from_what_the_model_said_and_forgets_its_guesses() -> None:
    one = engine(1)
    assert one.mtp is not None
    ids = [*prompt(STORY), *(token.id for token in plain(ask_for(prompt(STORY), 24)))]
    hidden_states = one.hidden_states(ids, [len(ids)])
    one.link.send(Release("r"))
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

"""Lending: what a request begins with of another session's prompt changes no bit of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pytest

from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.decoding.request import Request, Token
from tests import oracles
from tests.mlx_moe.demo_pipeline import Pipeline, ask_for, nothing_is_left, shapes_matter  # noqa: F401

IDS = oracles.random_ids(150, 200, seed=7)
ANSWER = 4


pytestmark = pytest.mark.usefixtures("shapes_matter")


RULE = ChunkRule(shortest=4, longest=64)
"""Prompts of up to 45 positions are cut by 4, of up to 90 by 8, and so on: an eighth of the default's lengths."""


def new_pipeline() -> Pipeline:
    return Pipeline(2, chunks=RULE)


def alone(input_ids: Sequence[int]) -> list[Token]:
    return _alone(ask_for(input_ids, ANSWER))


@cache
def _alone(request: Request) -> list[Token]:
    pipeline = new_pipeline()
    (tokens,) = pipeline.finish(pipeline.ask(request))
    pipeline.close()
    return tokens


@pytest.mark.parametrize(
    ("lender", "borrower", "lent"),
    [
        (45, 38, 36),
        (45, 46, 0),
        (46, 45, 0),
        (46, 90, 40),
        (90, 46, 40),
        (90, 91, 0),
        (91, 90, 0),
        (91, 150, 80),
    ],
)
def test_whole_chunks_are_lent_to_prompts_that_are_cut_alike_and_no_others(
    lender: int, borrower: int, lent: int
) -> None:
    pipeline = new_pipeline()
    pipeline.finish(pipeline.ask(ask_for(IDS[:lender], ANSWER), pipeline.new_session()))
    answer = pipeline.ask(ask_for(IDS[:borrower], ANSWER))
    assert pipeline.finish(answer) == [alone(IDS[:borrower])]
    assert answer.stats.cached_tokens == lent
    pipeline.close()


def test_a_chunk_that_is_left_of_a_longer_frame_is_not_lent() -> None:
    pipeline = new_pipeline()
    session = pipeline.new_session()
    other = 199 - IDS[8]
    for prompt in ([*IDS[:8], other], IDS[:60], [*IDS[:12], 199 - IDS[12]]):  # cut by 4, from 8 on by 8, and at 12
        pipeline.finish(pipeline.ask(ask_for(prompt, ANSWER), session))
    answer = pipeline.ask(ask_for(IDS[:30], ANSWER))
    assert pipeline.finish(answer) == [alone(IDS[:30])]
    assert answer.stats.cached_tokens == 8
    pipeline.close()


def test_what_a_borrower_ran_itself_is_lent_on() -> None:
    pipeline = new_pipeline()
    for length, lent in ((95, 0), (125, 80), (140, 112)):
        answer = pipeline.ask(ask_for(IDS[:length], ANSWER), pipeline.new_session())
        assert pipeline.finish(answer) == [alone(IDS[:length])]
        assert answer.stats.cached_tokens == lent
    pipeline.close()


def test_a_chat_turn_is_cut_by_what_is_new_and_that_is_not_lent() -> None:
    pipeline = new_pipeline()
    session = pipeline.new_session()
    (first,) = pipeline.finish(pipeline.ask(ask_for(IDS[:70], ANSWER), session))
    turn = [*IDS[:70], *(token.id for token in first), *IDS[74:90]]
    second = pipeline.ask(ask_for(turn, ANSWER), session)
    pipeline.finish(second)
    kept = second.stats.cached_tokens
    assert kept == 73  # the last token's frame was never sent
    ends = session.sequence.frame_ends
    assert ends[ends.index(kept) + 1 : ends.index(90) + 1] == [76, 80, 84, 88, 90]
    borrower = pipeline.ask(ask_for(turn, ANSWER))
    assert pipeline.finish(borrower) == [alone(turn)]
    assert borrower.stats.cached_tokens == 64
    pipeline.close()


def test_a_session_that_goes_on_from_a_shorter_prompt_lends_by_the_cut_it_began_with() -> None:
    pipeline = new_pipeline()
    session = pipeline.new_session()
    pipeline.finish(pipeline.ask(ask_for(IDS[:140], ANSWER), session))
    pipeline.finish(pipeline.ask(ask_for(IDS[:50], ANSWER), session))
    for length, lent in ((60, 0), (150, 48)):
        borrower = pipeline.ask(ask_for(IDS[:length], ANSWER))
        assert pipeline.finish(borrower) == [alone(IDS[:length])]
        assert borrower.stats.cached_tokens == lent
    pipeline.close()

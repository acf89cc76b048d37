"""Replay: an answer that another coordinator goes on with has the tokens, to the bit, that it would have had."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest

import mlx_moe
from mlx_moe.decoding.replay import PromptFrames, Replay
from mlx_moe.decoding.request import Request, Token
from mlx_moe.errors import InvalidRequestError
from mlx_moe.model import LocalModel
from mlx_moe.sampling_params import SamplingParams

SAMPLING = SamplingParams(temperature=1.2, top_p=0.9, repetition_penalty=1.1, seed=5)


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    with closing(mlx_moe.load("demo")) as loaded:
        yield loaded


def asked(input_ids: tuple[int, ...], max_tokens: int = 12) -> Request:
    return Request(input_ids, SAMPLING, max_tokens=max_tokens, ignore_eos=True, detect_loops=False)


@pytest.fixture(scope="module")
def second_turn(model: LocalModel) -> tuple[Request, list[Token], PromptFrames]:
    """Return the second request of a conversation, whose prompt is partly kept, and how it was answered."""
    session, first = model.new_session(), asked(tuple(range(30, 100)))
    written = [token.id for token in model.generate(first, session)]
    second = asked((*first.input_ids, *written[:9], *range(200, 240)))
    tokens = list(model.generate(second, session))
    frames = session.sequence.prompt_frames
    session.close()
    return second, tokens, frames


@pytest.mark.parametrize("n_written", [0, 1, 7, 11])
def test_an_answer_continues_in_a_coordinator_that_has_not_begun_it(
    model: LocalModel, second_turn: tuple[Request, list[Token], PromptFrames], n_written: int
) -> None:
    request, tokens, frames = second_turn
    replay = Replay(tuple(token.id for token in tokens[:n_written]), frames)
    generation = model.generate(request, replay=replay)
    assert list(generation) == tokens[n_written:]
    assert generation.finish_reason == "length"
    assert generation.text == "".join(token.text for token in tokens)


def test_a_prompt_whose_frames_are_unknown_is_cut_as_a_new_one(model: LocalModel) -> None:
    request = asked(tuple(range(30, 100)))
    tokens = list(model.generate(request))
    assert list(model.generate(request, replay=Replay(tuple(t.id for t in tokens[:5])))) == tokens[5:]


@pytest.mark.parametrize(
    ("replay", "error"),
    [
        (Replay((1,) * 12), "12 tokens are written, and 12 are the most"),
        (Replay((10**6,)), "outside the vocabulary"),
        (Replay((1,), PromptFrames((32, 64))), "do not end where the prompt does"),
    ],
)
def test_what_cannot_have_been_written_is_refused(model: LocalModel, replay: Replay, error: str) -> None:
    with pytest.raises(InvalidRequestError, match=error):
        model.generate(asked(tuple(range(30, 100))), replay=replay)


def test_an_answer_without_its_seed_is_refused(model: LocalModel) -> None:
    request = asked(tuple(range(30, 100)))
    with pytest.raises(InvalidRequestError, match="seed"):
        model.generate(replace(request, sampling=replace(SAMPLING, seed=None)), replay=Replay((1,)))


@pytest.mark.parametrize("ends", [(), (0,), (64, 32), (1 << 17,)], ids=str)
def test_frames_that_cannot_be_are_refused(ends: tuple[int, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="frames"):
        PromptFrames(ends)

"""Log-probabilities of a prompt's tokens, and the likeliest tokens at each position."""

from collections.abc import Iterator

import mlx.core as mx
import pytest

import mlx_moe
from mlx_moe.decoding import coordinator
from mlx_moe.decoding.chunking import ChunkRule
from mlx_moe.decoding.request import Request, Token
from mlx_moe.decoding.sampling import likeliest, scored
from mlx_moe.errors import InvalidRequestError
from mlx_moe.model import LocalModel
from mlx_moe.sampling_params import SamplingParams

GREEDY = SamplingParams(temperature=0)
CLOSE = 0.02
"""Chunks and single positions are computed by other kernels."""


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    loaded = mlx_moe.load("demo", chunks=ChunkRule.fixed(16))
    yield loaded
    loaded.close()


def score(model: LocalModel, input_ids: tuple[int, ...], top: int = 0) -> list[Token]:
    request = Request(input_ids, GREEDY, max_tokens=1, prompt_logprobs=True, top_logprobs=top)
    generation = model.generate(request)
    list(generation)
    assert generation.stats.cached_tokens == 0
    return generation.prompt_tokens


def test_a_prompt_is_scored_as_its_tokens_were_when_they_were_written(model: LocalModel) -> None:
    prompt = tuple(model.encode("What is a Mac? " * 9, add_special_tokens=False))
    with model.generate(Request(prompt, GREEDY, max_tokens=40, ignore_eos=True, top_logprobs=3)) as generation:
        written = list(generation)
    whole = (*prompt, *(token.id for token in written))
    tokens = score(model, whole, top=3)
    assert [token.id for token in tokens] == [*whole]
    assert [token.position for token in tokens] == [*range(len(whole))]
    assert b"".join(token.piece for token in tokens).startswith(b"What is a Mac? What")
    for again, token in zip(tokens[len(prompt) :], written, strict=True):
        assert again.logprob == pytest.approx(token.logprob, abs=CLOSE)
        assert token.top[0].id == token.id
        assert token.top[0].logprob == token.logprob
        assert max(one.logprob for one in again.top) >= again.logprob
        assert [one.logprob for one in again.top] == sorted((one.logprob for one in again.top), reverse=True)


def test_slices_of_the_rows_and_kept_prefixes_change_no_score(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = tuple(model.encode("A Mac is a computer. " * 9))
    wanted = [token.logprob for token in score(model, prompt)]
    with model.generate(Request(prompt, GREEDY, max_tokens=1)) as generation:  # keeps the prefix for others
        list(generation)
    monkeypatch.setattr(coordinator, "SCORED_BYTES", 3 * 4 * model.config.vocab_size)
    assert [token.logprob for token in score(model, prompt)] == pytest.approx(wanted, abs=CLOSE)


def test_one_token_has_nothing_before_it(model: LocalModel) -> None:
    assert [(token.position, token.logprob, token.top) for token in score(model, (5,), top=2)] == [(0, 0.0, ())]


def test_the_likeliest_are_told_in_order_with_the_scores_that_the_tokens_have() -> None:
    logits = mx.random.normal((4, 100), key=mx.random.key(1)) * 5
    ids, logprobs = likeliest(logits, 5)
    wanted = mx.argsort(-logits, axis=-1)[:, :5]
    assert ids.tolist() == wanted.tolist()
    for column in range(5):
        assert logprobs[:, column].tolist() == scored(logits, ids[:, column]).tolist()


@pytest.mark.parametrize("count", [-1, 21, 1.5, True])
def test_more_than_twenty_are_refused(count: int) -> None:
    with pytest.raises(InvalidRequestError, match="top_logprobs"):
        Request((1,), top_logprobs=count)

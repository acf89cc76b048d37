"""Sampling: kept tokens as transformers', frequencies as the probabilities, numbers by (seed, position) alone."""

import subprocess
import sys

import mlx.core as mx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from mlx_moe.errors import CheckpointError, InvalidRequestError
from mlx_moe.sampling import Sampler, SamplingParams, _filtered

VOCAB = 40


def draw(params: SamplingParams, logits: np.ndarray, positions: range, seed: int = 1) -> list[int]:
    sampler = Sampler(params, seed, VOCAB, [0, 1])
    return [int(sampler(mx.array(logits), position)[0].item()) for position in positions]  # type: ignore[arg-type]


def random_logits(seed: int, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=VOCAB) * spread).astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    top_k=st.integers(0, VOCAB + 5),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0.0, 1.0),
)
def test_what_is_kept_is_what_transformers_keeps(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    logits = random_logits(seed)
    warpers = LogitsProcessorList()
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p > 0:
        warpers.append(MinPLogitsWarper(min_p))
    wanted = warpers(torch.zeros((1, 1), dtype=torch.long), torch.tensor(logits)[None])[0].numpy()
    got = np.array(_filtered(mx.array(logits), SamplingParams(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p)))
    # a token on the very edge of top_p may fall either way by rounding
    differing = np.flatnonzero(np.isfinite(got) != np.isfinite(wanted))
    probabilities = np.sort(np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum())[::-1].cumsum()
    assert len(differing) <= int(np.any(np.abs(probabilities - top_p) < 1e-5))


def test_greedy_takes_the_likeliest_whatever_else_is_set() -> None:
    logits = random_logits(3)
    params = SamplingParams(temperature=0.0, top_p=0.5, top_k=3)
    assert set(draw(params, logits, range(20))) == {int(logits.argmax())}


def test_frequencies_follow_the_probabilities() -> None:
    logits = random_logits(4, spread=1.0)
    count = 4000
    drawn = np.bincount(draw(SamplingParams(temperature=0.8, top_p=1.0), logits, range(count)), minlength=VOCAB)
    probabilities = np.exp(logits / 0.8) / np.exp(logits / 0.8).sum()
    chi_square = ((drawn - count * probabilities) ** 2 / (count * probabilities)).sum()
    assert chi_square < 73  # the 0.999 quantile at 39 degrees of freedom is 72.1; seed and positions are fixed


def test_a_positions_number_depends_on_seed_and_position_alone() -> None:
    params = SamplingParams(temperature=2.0, top_p=1.0)
    logits = random_logits(5, spread=0.5)
    forwards = draw(params, logits, range(50))
    assert [draw(params, logits, range(p, p + 1))[0] for p in reversed(range(50))] == forwards[::-1]
    assert draw(params, logits, range(50), seed=2) != forwards
    script = (
        "import mlx.core as mx, numpy as np\n"
        "from mlx_moe.sampling import Sampler, SamplingParams\n"
        "logits = (np.random.default_rng(5).normal(size=40) * 0.5).astype(np.float32)\n"
        "sampler = Sampler(SamplingParams(temperature=2.0, top_p=1.0), 1, 40, [0, 1])\n"
        "print([sampler(mx.array(logits), p)[0].item() for p in range(50)])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert output.stdout.strip() == str(forwards)


def test_the_repetition_penalty_is_that_of_transformers_over_prompt_and_answer() -> None:
    logits = random_logits(6)
    params = SamplingParams(temperature=0.0, repetition_penalty=1.7)
    sampler = Sampler(params, 0, VOCAB, [3, 9])
    ids = [3, 9]
    for position in range(2, 22):
        token = int(sampler(mx.array(logits), position)[0].item())  # type: ignore[arg-type]
        processor = RepetitionPenaltyLogitsProcessor(1.7)
        wanted = processor(torch.tensor([ids]), torch.tensor(logits)[None])[0].argmax()
        assert token == int(wanted)
        ids.append(token)


def test_presence_and_frequency_penalties_count_the_answer_alone() -> None:
    logits = np.zeros(VOCAB, dtype=np.float32)
    logits[:3] = [1.0, 0.8, 0.55]
    frequency = SamplingParams(temperature=0.0, frequency_penalty=0.3)
    assert draw(frequency, logits, range(5)) == [0, 1, 0, 2, 1]  # after each: 1.0 .8 .55, .7 .8, .7 .5, .4 .5 .55
    presence = SamplingParams(temperature=0.0, presence_penalty=2.0)
    assert draw(presence, logits, range(3)) == [0, 1, 2]


def test_a_bias_moves_the_choice() -> None:
    assert draw(SamplingParams(temperature=0.0, logit_bias=((7, 100.0),)), random_logits(1), range(1)) == [7]


def test_the_logprob_is_of_the_models_own_distribution() -> None:
    logits = random_logits(8)
    token, logprob = Sampler(SamplingParams(temperature=0.3, top_k=2), 0, VOCAB, [0])(mx.array(logits), 0)
    wanted = torch.log_softmax(torch.tensor(logits), 0)[int(token.item())]  # type: ignore[arg-type]
    assert float(logprob.item()) == pytest.approx(float(wanted), abs=1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", float("nan")),
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("temperature", True),
        ("top_p", 1.01),
        ("top_p", float("nan")),
        ("top_k", -1),
        ("top_k", 1.5),
        ("min_p", 2),
        ("repetition_penalty", 0),
        ("presence_penalty", 3),
        ("frequency_penalty", float("nan")),
        ("seed", -1),
        ("seed", 2**64),
        ("logit_bias", ((1, float("nan")),)),
        ("logit_bias", ((-1, 0.0),)),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match=field):
        SamplingParams(**{field: value})  # type: ignore[arg-type]


def test_a_checkpoints_defaults_are_read_and_checked() -> None:
    assert SamplingParams.from_generation_config({"do_sample": False, "temperature": 0.7}).temperature == 0.0
    assert SamplingParams.from_generation_config({"temperature": 0.7, "top_k": 20, "x": 1}).top_k == 20
    assert SamplingParams.from_generation_config({}) == SamplingParams()
    with pytest.raises(CheckpointError, match=r"generation_config.json: top_p is 7"):
        SamplingParams.from_generation_config({"top_p": 7})

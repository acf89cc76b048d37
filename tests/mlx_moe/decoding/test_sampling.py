"""Sampling: kept tokens as transformers', frequencies as the probabilities, numbers by (seed, position) alone."""

import random
import subprocess
import sys
from collections import Counter

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

from mlx_moe.decoding.sampling import Sampler, _filtered, _gumbel, _mix
from mlx_moe.errors import InvalidRequestError
from mlx_moe.sampling_params import MAX_SEED, SamplingParams, shown

pytestmark = pytest.mark.oracle

VOCAB = 40


def draw(params: SamplingParams, logits: np.ndarray, positions: range, seed: int = 1) -> list[int]:
    sampler = Sampler(params, seed, VOCAB, [0, 1])
    return [int(sampler(mx.array(logits), position)[0].item()) for position in positions]  # type: ignore[arg-type]


def random_logits(seed: int, spread: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=VOCAB) * spread).astype(np.float32)


@settings(max_examples=150)
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
        "from mlx_moe.decoding.sampling import Sampler, SamplingParams\n"
        "logits = (np.random.default_rng(5).normal(size=40) * 0.5).astype(np.float32)\n"
        "sampler = Sampler(SamplingParams(temperature=2.0, top_p=1.0), 1, 40, [0, 1])\n"
        "print([sampler(mx.array(logits), p)[0].item() for p in range(50)])"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
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
        ("logit_bias", {1: 101.0}),
        ("logit_bias", {1: "much"}),
        ("logit_bias", {1.5: 1.0}),
        ("logit_bias", {True: 1.0}),
        ("logit_bias", {"7": 1.0}),
        ("logit_bias", [1, 2]),
        ("logit_bias", None),
        ("logit_bias", {-(10**5000): 1.0}),
        ("temperature", 10**5000),
        ("temperature", None),
        ("seed", 10**5000),
        ("seed", True),
        ("seed", 1.0),
        ("top_k", True),
        ("top_k", 2**40),
        ("top_p", "x" * 10**6),
    ],
    ids=shown,
)
def test_a_setting_out_of_range_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError, match=f"^{field}") as refusal:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert len(str(refusal.value)) < 200
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 2**100:
        assert str(value) in str(refusal.value)
        assert "must be" in str(refusal.value)


def test_the_ends_of_the_ranges_are_allowed() -> None:
    low = SamplingParams(temperature=0, top_k=0, top_p=0, min_p=0, presence_penalty=-2, frequency_penalty=-2, seed=0)
    high = SamplingParams(temperature=10, top_k=1 << 24, top_p=1, min_p=1, repetition_penalty=10, seed=MAX_SEED)
    for params in (low, high):
        assert 0 <= draw(params, random_logits(1), range(1))[0] < VOCAB


def test_a_bias_may_be_a_mapping_or_pairs() -> None:
    params = SamplingParams(logit_bias={9: 1.0, 2: -100})
    assert params.logit_bias == ((2, -100), (9, 1.0))
    assert params == SamplingParams(logit_bias=((9, 1.0), (2, -100)))
    assert hash(params) == hash(params.updated(top_k=0))


def test_a_bias_outside_the_vocabulary_is_refused_before_any_work() -> None:
    params = SamplingParams(logit_bias={VOCAB - 1: 1.0, VOCAB: 1.0})
    with pytest.raises(InvalidRequestError, match="logit_bias names token 40; the model's vocabulary has 40 tokens"):
        params.require_vocabulary(VOCAB)
    with pytest.raises(InvalidRequestError):
        Sampler(params, 0, VOCAB, [0])
    params.require_vocabulary(VOCAB + 1)


def test_a_banned_token_is_never_drawn() -> None:
    logits = random_logits(4, spread=1.0)
    likeliest = int(logits.argmax())
    drawn = draw(SamplingParams(temperature=1.0, top_p=1.0, logit_bias={likeliest: -100.0}), logits, range(500))
    assert likeliest not in drawn


def test_filters_work_in_order_on_what_the_one_before_left() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], dtype=np.float32))
    # alone, top_p 0.75 keeps three tokens; of the two that top_k keeps, which then have 4/7 and 3/7, both
    kept = np.isfinite(np.array(_filtered(mx.array(logits), SamplingParams(temperature=1.0, top_k=2, top_p=0.55))))
    assert kept.tolist() == [True, False, False, False]
    kept = np.isfinite(np.array(_filtered(mx.array(logits), SamplingParams(temperature=1.0, top_p=0.55))))
    assert kept.tolist() == [True, True, False, False]


def test_temperature_comes_before_the_filters_as_in_transformers() -> None:
    logits = random_logits(11)
    for temperature in (0.3, 1.0, 3.0):
        scaled = torch.tensor(logits)[None] / temperature
        wanted = TopPLogitsWarper(0.8)(torch.zeros((1, 1), dtype=torch.long), scaled)[0].numpy()
        got = np.array(_filtered(mx.array(logits), SamplingParams(temperature=temperature, top_p=0.8)))
        assert (np.isfinite(got) == np.isfinite(wanted)).all()


def test_tied_tokens_are_kept_or_dropped_together() -> None:
    logits = mx.array([2.0, 1.0, 1.0, 1.0, 0.0])
    for params in (SamplingParams(temperature=1.0, top_k=2, top_p=1.0), SamplingParams(temperature=1.0, top_p=0.6)):
        assert np.isfinite(np.array(_filtered(logits, params))).tolist() == [True, True, True, True, False]


@pytest.mark.parametrize("params", [SamplingParams(top_p=0.0), SamplingParams(min_p=1.0), SamplingParams(top_k=1)])
def test_the_likeliest_always_stays(params: SamplingParams) -> None:
    logits = random_logits(12)
    assert set(draw(params, logits, range(200))) == {int(logits.argmax())}


@pytest.mark.parametrize("temperature", [5e-324, 1e-40, 1e-12, 1e-5])
def test_the_lowest_temperatures_are_numbers_too(temperature: float) -> None:
    logits = random_logits(13) * 30
    for top_p in (1.0, 0.95):
        drawn = draw(SamplingParams(temperature=temperature, top_p=top_p), logits, range(20))
        assert set(drawn) == {int(logits.argmax())}


def test_half_precision_logits_are_sampled_in_single_precision() -> None:
    logits = mx.array(random_logits(14)).astype(mx.bfloat16)
    for temperature in (0.0, 0.9):
        params = SamplingParams(temperature=temperature)
        token, logprob = Sampler(params, 5, VOCAB, [0])(logits, 3)
        same, _ = Sampler(params, 5, VOCAB, [0])(logits.astype(mx.float32), 3)
        assert token.item() == same.item()
        assert logprob.dtype == mx.float32


def test_kept_tokens_have_the_frequencies_of_the_kept_distribution() -> None:
    logits = random_logits(15, spread=2.0)
    params = SamplingParams(temperature=0.7, top_k=12, top_p=0.9, min_p=0.02)
    kept = np.exp(np.array(_filtered(mx.array(logits), params), dtype=np.float64))
    probabilities, count = kept / kept.sum(), 4000
    drawn = np.bincount(draw(params, logits, range(count)), minlength=VOCAB)
    alive = probabilities > 0
    assert 3 < alive.sum() <= 12
    assert drawn[~alive].sum() == 0
    expected = count * probabilities[alive]
    degrees = alive.sum() - 1
    assert ((drawn[alive] - expected) ** 2 / expected).sum() < degrees + 4 * (2 * degrees) ** 0.5


def test_gumbel_noise_is_finite_and_has_its_distribution() -> None:
    noise = np.concatenate([np.array(_gumbel((1 << 16,), seed, 7), dtype=np.float64) for seed in range(4)])
    assert np.isfinite(noise).all()
    assert noise.mean() == pytest.approx(0.5772, abs=0.01)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.03)
    # unlikely tokens are drawn by the upper tail, where uniform numbers near 1 would come in steps
    assert np.exp(-noise)[np.exp(-noise) < 1e-4].size == pytest.approx(noise.size * 1e-4, rel=0.5)
    assert len(np.unique(noise)) > 0.99 * noise.size


def test_neighbouring_seeds_and_positions_share_no_numbers() -> None:
    keys = {_mix(_mix(seed) ^ position) for seed in range(100) for position in range(100)}
    assert len(keys) == 10_000
    assert _mix(0) == 0xE220A8397B1DCDAF  # splitmix64's first output from 0, as published


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_building_a_sample_evaluates_nothing(temperature: float) -> None:
    params = SamplingParams(
        temperature=temperature, top_k=5, min_p=0.1, repetition_penalty=1.2, presence_penalty=0.5, logit_bias={1: 1.0}
    )
    size = 1 << 20
    before = mx.get_active_memory()
    sampler = Sampler(params, 1, size, [1, 2])
    logits = mx.zeros(size)
    for position in range(3):
        token, _ = sampler(logits, position)
        logits = mx.zeros(size).at[token].add(3.0)  # the next one depends on it
    assert mx.get_active_memory() - before < size  # one array of logits would have four times as many bytes
    assert 0 <= int(token.item()) < size  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_position_asked_again_gives_the_same_token_under_penalties(temperature: float) -> None:
    params = SamplingParams(
        temperature=temperature, top_p=1.0, repetition_penalty=1.3, presence_penalty=0.4, frequency_penalty=0.7
    )
    logits = [mx.array(random_logits(n, spread=1.0)) for n in range(40)]
    plain = Sampler(params, 3, VOCAB, [0, 1])
    wanted = [plain(logits[p], p)[0].item() for p in range(40)]
    drafting, position, got = Sampler(params, 3, VOCAB, [0, 1]), 0, []
    rng = random.Random(0)
    while position < 40:
        drafts = [drafting(logits[p], p)[0].item() for p in range(position, min(position + 4, 40))]
        kept = rng.randint(1, len(drafts))
        got += drafts[:kept]
        position += kept
    assert got == wanted


def test_a_position_too_far_back_is_refused() -> None:
    sampler = Sampler(SamplingParams(presence_penalty=1.0), 0, VOCAB, [0])
    logits = mx.zeros(VOCAB)
    for position in range(5, 40):
        sampler(logits, position)
    with pytest.raises(ValueError, match="position 3 is before 24, the first that is still kept"):
        sampler(logits, 3)


def test_penalties_are_those_of_plain_arithmetic() -> None:
    logits, prompt = random_logits(16), [3, 4]
    params = SamplingParams(
        temperature=0.0,
        repetition_penalty=1.5,
        presence_penalty=0.3,
        frequency_penalty=0.2,
        logit_bias={5: 2.5, 6: -1.0},
    )
    sampler, answer = Sampler(params, 0, VOCAB, prompt), Counter[int]()
    for position in range(30):
        adjusted = logits.copy()
        adjusted[5] += 2.5
        adjusted[6] -= 1.0
        for token in {*prompt, *answer}:
            adjusted[token] *= 1.5 if adjusted[token] <= 0 else 1 / 1.5
        for token, count in answer.items():
            adjusted[token] -= 0.3 + 0.2 * count
        token = int(sampler(mx.array(logits), position)[0].item())  # type: ignore[arg-type]
        assert token == adjusted.argmax()
        answer[token] += 1

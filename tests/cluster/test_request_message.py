"""Request messages: what a client writes the coordinator reads, to the bit."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.request_message import (
    MAX_UINT32,
    from_frames_message,
    from_request_message,
    from_sampling_message,
    from_token_message,
    to_frames_message,
    to_request_message,
    to_sampling_message,
    to_token_message,
)
from cluster.wire import coordinator_pb2 as pb
from mlx_moe.decoding.replay import PromptFrames
from mlx_moe.decoding.request import GenerationStats, Request, Token, TokenLogprob
from mlx_moe.errors import InvalidRequestError
from mlx_moe.sampling_params import MAX_SEED, SamplingParams

IDS = st.integers(0, MAX_UINT32)
SAMPLING = st.builds(
    SamplingParams,
    temperature=st.floats(0, 10),
    top_k=st.integers(0, 1 << 24),
    top_p=st.floats(0, 1),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0.01, 10),
    presence_penalty=st.floats(-2, 2),
    frequency_penalty=st.floats(-2, 2),
    logit_bias=st.dictionaries(IDS, st.floats(-100, 100)),
    seed=st.none() | st.integers(0, MAX_SEED),
)
REQUESTS = st.builds(
    Request,
    st.lists(IDS, min_size=1).map(tuple),
    SAMPLING,
    max_tokens=st.none() | st.integers(1, MAX_UINT32),
    stop=st.lists(st.text(min_size=1, max_size=20), max_size=3).map(tuple),
    ignore_eos=st.booleans(),
    detect_loops=st.booleans(),
    top_logprobs=st.integers(0, 20),
    prompt_logprobs=st.booleans(),
)


@given(REQUESTS)
def test_a_request_arrives_as_it_was(request_: Request) -> None:
    message = to_request_message(request_, b"c" * 16, b"r" * 16)
    assert from_request_message(pb.AnswerRequest.FromString(message.SerializeToString())) == request_


def test_what_is_not_said_has_its_default() -> None:
    assert from_sampling_message(pb.Sampling()) == SamplingParams()
    greedy = replace(SamplingParams(), temperature=0.0)
    assert from_sampling_message(to_sampling_message(greedy)) == greedy


def test_a_token_arrives_with_how_the_answer_stood() -> None:
    top = (TokenLogprob(8, b"\xc3", -0.5), TokenLogprob(7, "é".encode(), -0.25))
    token, stats = Token(7, "é", -0.25, 12, "é".encode(), top), GenerationStats(5, 2, 7, 0.1, compared_by_depth=(3, 1))
    assert from_token_message(to_token_message(token, stats, "stop")) == (token, stats, "stop")
    assert from_token_message(to_token_message(token, stats, None)) == (token, stats, None)


def test_what_a_coordinator_says_for_people_cannot_control_their_terminal() -> None:
    message = to_token_message(
        Token(7, "e", -0.25, 12), GenerationStats(5, 2, 7, 0.1, waited_for="mac\x1b]0;x\x07"), None
    )
    assert from_token_message(message)[1].waited_for == "mac?]0;x?"


@pytest.mark.parametrize("request_", [Request((1 << 32,)), Request((1,), SamplingParams(logit_bias={1 << 32: 1.0}))])
def test_a_token_that_no_vocabulary_has_is_refused_before_it_is_sent(request_: Request) -> None:
    with pytest.raises(InvalidRequestError, match="4294967296"):
        to_request_message(request_, b"", b"")


@given(st.lists(st.integers(1, 600), min_size=1, max_size=30), st.dictionaries(st.integers(1, 99), st.integers(1, 99)))
def test_frames_travel(lengths: list[int], cut_lengths: dict[int, int]) -> None:
    ends = tuple(sum(lengths[: i + 1]) for i in range(len(lengths)))
    frames = PromptFrames(ends, tuple(sorted(cut_lengths.items())), 32, 64)
    assert from_frames_message(to_frames_message(frames)) == frames

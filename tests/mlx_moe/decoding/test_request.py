"""Requests are refused before any work, with the numbers; statistics are what they say."""

from typing import Any

import pytest

from mlx_moe.decoding.request import GenerationStats, Request
from mlx_moe.errors import InvalidRequestError
from mlx_moe.sampling_params import SamplingParams

FINE = (1, 2, 3)


def test_a_plain_request_has_the_defaults() -> None:
    request = Request(FINE)
    assert (request.sampling, request.max_tokens, request.stop) == (SamplingParams(), None, ())
    assert (request.ignore_eos, request.detect_loops) == (False, True)
    assert hash(request) == hash(Request(FINE))


def test_the_ends_of_the_ranges_are_allowed() -> None:
    Request((0,), max_tokens=1, stop=("x", "y" * 256))
    Request(FINE, stop=tuple("abcdefghijklmnop"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_ids": ()}, "the prompt is empty"),
        ({"input_ids": (1, -1)}, "token ids must be integers of 0 or more, got -1"),
        ({"input_ids": (1, 2.0)}, "token ids must be integers of 0 or more, got 2.0"),
        ({"input_ids": (1, True)}, "token ids must be integers of 0 or more, got True"),
        ({"input_ids": (1, None)}, "token ids must be integers of 0 or more, got None"),
        ({"input_ids": ("hello",)}, "token ids must be integers of 0 or more, got 'hello'"),
        ({"input_ids": (-(10**5000),)}, "token ids must be integers of 0 or more, got an integer of 16610 bits"),
        ({"input_ids": "hello"}, "input_ids must be a tuple of token ids, got 'hello'"),
        ({"input_ids": [1, 2]}, r"input_ids must be a tuple of token ids, got \[1, 2\]"),
        ({"sampling": {"temperature": 1}}, "sampling must be SamplingParams, got {'temperature': 1}"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"max_tokens": -5}, "max_tokens must be 1 or more, got -5"),
        ({"max_tokens": 1.5}, "max_tokens must be 1 or more, got 1.5"),
        ({"max_tokens": float("nan")}, "max_tokens must be 1 or more, got nan"),
        ({"max_tokens": True}, "max_tokens must be 1 or more, got True"),
        ({"max_tokens": "9"}, "max_tokens must be 1 or more, got '9'"),
        ({"stop": "END"}, "stop must be a tuple of strings, got 'END'"),
        ({"stop": None}, "stop must be a tuple of strings, got None"),
        ({"stop": ["END"]}, "stop must be a tuple of strings, got"),
        ({"stop": ("a",) * 17}, "at most 16 stop strings are allowed, got 17"),
        ({"stop": ("",)}, "a stop string must have 1 to 256 characters, got 0"),
        ({"stop": ("x" * 257,)}, "a stop string must have 1 to 256 characters, got 257"),
        ({"stop": (b"x",)}, "stop must contain strings, got b'x'"),
        ({"ignore_eos": 1}, "ignore_eos must be True or False, got 1"),
        ({"detect_loops": "no"}, "detect_loops must be True or False, got 'no'"),
    ],
    ids=range(25),
)
def test_a_field_out_of_range_is_refused_with_its_value(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message) as refusal:
        Request(**{"input_ids": FINE, **fields})
    assert len(str(refusal.value)) < 200


def test_speeds_count_only_what_was_computed() -> None:
    stats = GenerationStats(
        prompt_tokens=100, cached_tokens=60, generated_tokens=11, ttft_s=2.1, prefill_s=2.0, decode_s=5.0
    )
    assert (stats.prefill_tps, stats.decode_tps) == (20.0, 2.0)
    assert (GenerationStats().prefill_tps, GenerationStats().decode_tps) == (0.0, 0.0)

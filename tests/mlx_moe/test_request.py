"""Requests are refused before any work, with the numbers; statistics are what they say."""

from typing import Any

import pytest

from mlx_moe.errors import InvalidRequestError
from mlx_moe.request import GenerationStats, Request
from mlx_moe.sampling import SamplingParams

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
        ({"input_ids": (1, -1)}, "input id -1 is not a token id"),
        ({"input_ids": (1, 2.0)}, "input id 2.0 is not a token id"),
        ({"input_ids": (1, True)}, "input id True is not a token id"),
        ({"input_ids": (1, None)}, "input id None is not a token id"),
        ({"input_ids": ("hello",)}, "input id 'hello' is not a token id"),
        ({"input_ids": (-(10**5000),)}, "input id an integer of 16610 bits is not a token id"),
        ({"input_ids": "hello"}, "input_ids is 'hello', wanted a tuple"),
        ({"input_ids": [1, 2]}, r"input_ids is \[1, 2\], wanted a tuple"),
        ({"sampling": {"temperature": 1}}, "sampling is {'temperature': 1}, wanted SamplingParams"),
        ({"max_tokens": 0}, "max_tokens is 0, wanted an integer from 1"),
        ({"max_tokens": -5}, "max_tokens is -5"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5"),
        ({"max_tokens": float("nan")}, "max_tokens is nan"),
        ({"max_tokens": True}, "max_tokens is True"),
        ({"max_tokens": "9"}, "max_tokens is '9'"),
        ({"stop": "END"}, "stop is 'END', wanted a tuple of strings"),
        ({"stop": None}, "stop is None"),
        ({"stop": ["END"]}, "stop is"),
        ({"stop": ("a",) * 17}, "17 stop strings, wanted at most 16"),
        ({"stop": ("",)}, "a stop string has 0 characters, wanted 1 to 256"),
        ({"stop": ("x" * 257,)}, "a stop string has 257 characters, wanted 1 to 256"),
        ({"stop": (b"x",)}, "stop has b'x', wanted strings"),
        ({"ignore_eos": 1}, "ignore_eos is 1, wanted True or False"),
        ({"detect_loops": "no"}, "detect_loops is 'no', wanted True or False"),
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

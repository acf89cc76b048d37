"""The checker finds every way in which streamed tokens can differ from the undisturbed run's, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.decoding.request import Token
from tests.faults.checker import Heard

WANTED = [Token(100 + n, f"t{n} ", -0.5, 10 + n) for n in range(12)]


def heard(tokens: list[Token], finish_reason: str | None = None) -> list[str]:
    it = Heard("a", 10, WANTED)
    for token in tokens:
        it.token(token)
    it.ended(finish_reason)
    return [violation.what for violation in it.violations]


@given(st.integers(0, len(WANTED)))
def test_the_beginning_of_the_undisturbed_run_is_sound_if_it_ended_with_an_error(count: int) -> None:
    assert not heard(WANTED[:count])
    assert not heard(WANTED[:count], "cancelled")
    assert bool(heard(WANTED[:count], "length")) == (count < len(WANTED))


@given(st.data())
def test_any_other_stream_is_not(data: st.DataObject) -> None:
    """Of tokens that are all right each by itself, only those in order, without gap and double, are sound."""
    tokens = data.draw(st.lists(st.sampled_from(WANTED), max_size=14))
    assert bool(heard(tokens)) == (tokens != WANTED[: len(tokens)])


@given(st.integers(0, len(WANTED) - 1), st.sampled_from(["id", "text", "logprob"]))
def test_a_single_changed_value_is_found(at: int, name: str) -> None:
    changed = replace(WANTED[at], **{name: {"id": 7, "text": "x", "logprob": -0.25}[name]})
    assert heard([*WANTED[:at], changed, *WANTED[at + 1 :]])


def test_what_is_wrong_is_said() -> None:
    assert "a gap: 1" in heard([WANTED[0], WANTED[2]])[0]
    assert heard([WANTED[0], WANTED[0]]) == ["heard twice"]
    assert "changed from 100 to 7" in heard([WANTED[0], replace(WANTED[0], id=7)])[0]
    assert "beyond the 12 tokens" in heard([*WANTED, Token(1, "", 0.0, 22)])[0]
    assert "ended with stop" in heard(WANTED[:3], "stop")[0]

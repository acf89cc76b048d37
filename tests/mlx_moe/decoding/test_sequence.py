"""Sequence: written down anywhere, an answer goes on from it elsewhere with the tokens that it would have had."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.request import GenerationStats, Request, Token
from mlx_moe.decoding.sequence import Phase, Sequence
from mlx_moe.pipeline.frame import Frame
from mlx_moe.sampling_params import SamplingParams
from mlx_moe.text.grammar import Grammar
from tests import oracles
from tests.mlx_moe.demo_pipeline import (
    GREEDY,
    PENALIZED,
    SAMPLED,
    Pipeline,
    ask_for,
    mtp_drafter,
    nothing_is_left,  # noqa: F401
    shapes_matter,  # noqa: F401
    tokenizer,
)

IDS = tuple(oracles.random_ids(90, 200, seed=11))
SHAPES = settings(max_examples=15, suppress_health_check=list(HealthCheck))
ANSWER = 12


@dataclass(frozen=True)
class Turns:
    """A first request, and a second one of the same session: longer, shorter, edited within a chunk, or the same."""

    first: int
    kept: int
    new: int
    sampling: SamplingParams
    drafts: bool
    grammar: Grammar | None

    def request(self, input_ids: tuple[int, ...]) -> Request:
        """Ask for ANSWER tokens; a grammar of more of them does not end the answer before."""
        return replace(ask_for(input_ids, ANSWER, self.sampling, ignore_eos=self.grammar is None), grammar=self.grammar)

    @property
    def prompts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return IDS[: self.first], (*IDS[: self.kept], *oracles.random_ids(self.new, 200, seed=self.new))


TURNS = st.builds(
    Turns,
    st.sampled_from([1, 40, 90]),
    st.integers(0, 90),
    st.sampled_from([1, 33, 70]),
    st.sampled_from([GREEDY, SAMPLED, PENALIZED]),
    st.booleans(),
    st.sampled_from([None, Grammar.of_schema({"type": "array", "items": {"type": "integer"}, "minItems": 20})]),
)


def second_answer(pipeline: Pipeline, turns: Turns) -> tuple[Sequence, Generation]:
    """Return the answer to the second request, not begun yet, and its sequence."""
    session = pipeline.new_session()
    first, second = turns.prompts
    pipeline.finish(pipeline.ask(turns.request(first), session))
    return session.sequence, pipeline.ask(turns.request(second), session)


@cache
def undisturbed(turns: Turns) -> list[Token]:
    pipeline = Pipeline(2)
    (tokens,) = pipeline.finish(second_answer(pipeline, turns)[1])
    pipeline.close()
    return tokens


@pytest.mark.usefixtures("shapes_matter")
@SHAPES
@given(
    before=st.sampled_from([2, 3, 6]),
    after=st.sampled_from([2, 3, 6]),
    turns=TURNS,
    cuts=st.lists(st.integers(0, 60), min_size=1, max_size=2),
)
def test_an_answer_cut_anywhere_goes_on_in_new_stages_with_the_same_tokens(
    before: int, after: int, turns: Turns, cuts: list[int]
) -> None:
    pipeline = Pipeline(before, mtp_drafter if turns.drafts else None)
    sequence, answer = second_answer(pipeline, turns)
    written: list[Token] = []
    for cut in cuts:
        for _ in range(cut):
            if answer.finish_reason is None and (token := answer.advance()) is not None:
                written.append(token)
            pipeline.link.step()
        if answer.finish_reason is not None:
            break
        data = sequence.to_bytes()
        pipeline.close()
        sequence = Sequence.from_bytes(data)
        assert sequence.to_bytes() == data
        pipeline = Pipeline(after, mtp_drafter if turns.drafts else None)
        resumes = sequence.phase is not Phase.IDLE
        if resumes:
            writer = AnswerWriter.resumed(tokenizer(), sequence)
            assert writer.text == "".join(token.text for token in written)
            answer = Generation(pipeline.answers, writer, close_session=True)
        else:  # it was not begun
            sequence, answer = second_answer(pipeline, turns)
    if answer.finish_reason is None:
        written += pipeline.finish(answer)[0]
    assert written == undisturbed(turns)
    pipeline.close()


@given(
    lengths=st.lists(st.sampled_from([1, 2, 8]), max_size=8),
    positions=st.lists(st.integers(0, 40), max_size=4),
)
def test_frames_are_known_by_where_they_end_also_after_rewinds(lengths: list[int], positions: list[int]) -> None:
    sequence = Sequence()
    for length in lengths:
        sequence.keep([7] * length)
    for position in positions:
        kept = min(position, len(sequence.token_ids))
        sequence.rewind(kept)
        assert len(sequence.token_ids) == kept == (sequence.frame_ends or [0])[-1]
    starts = [0, *sequence.frame_ends]
    assert all(a < b for a, b in zip(starts, sequence.frame_ends, strict=False))
    original = list(itertools.accumulate(lengths))
    for start, stop in zip(starts, sequence.frame_ends, strict=False):
        whole = next(e for e in original if e > start)
        assert sequence.cut_lengths.get(stop, stop - start) == whole - start
    assert Sequence.from_bytes(sequence.to_bytes()) == sequence


def test_everything_of_a_sequence_comes_back_from_bytes() -> None:
    sampling = SamplingParams(temperature=0.7, logit_bias={3: 1.5}, seed=9)
    sequence = Sequence(chunk_length=8)
    sequence.ask(
        ask_for(IDS[:20], sampling=sampling), seed=9, limit=24, stats=GenerationStats(accepted_by_depth=(1, 2))
    )
    sequence.stats.chunk_length = 8
    sequence.plan()
    sequence.keep(list(IDS[:8]))
    assert Sequence.from_bytes(sequence.to_bytes()) == sequence


def test_written_tokens_are_computed_again_with_several_frames_in_flight() -> None:
    first = Pipeline(3)
    session = first.new_session()
    answer = first.ask(ask_for(IDS[:30], ANSWER), session)
    while len(session.sequence.answer_ids) < 8:
        answer.advance()
        first.link.step()
    sequence = Sequence.from_bytes(session.sequence.to_bytes())
    first.close()
    sequence.restart()
    second = Pipeline(3)
    second.coordinator.submit(sequence)
    frames = []
    while sequence_ids := second.coordinator.scheduler.next():  # nothing returns meanwhile
        frames += [item for item in second.coordinator.step(sequence_ids) if isinstance(item, Frame)]
    assert [frame.position for frame in frames] == [0, 30, 31]  # as many as the link says
    assert [frame.hidden_states.shape[0] for frame in frames] == [30, 1, 1]
    second.close()

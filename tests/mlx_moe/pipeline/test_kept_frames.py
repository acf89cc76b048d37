"""Kept frames: after the loss of stages, those that are left compute nothing that they have computed, to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import mlx.core as mx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.request import Request, Token
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.pipeline.frame import Frame, FrameKind, Retain
from mlx_moe.pipeline.link import LocalLink
from mlx_moe.pipeline.shard_spec import ShardSpec
from mlx_moe.pipeline.stage import Past, Stage
from tests import oracles
from tests.engine import Engine, load_engine
from tests.mlx_moe import toy_family
from tests.mlx_moe.demo_pipeline import (
    GREEDY,
    SAMPLED,
    Certain,
    Pipeline,
    ask_for,
    engine,
    mtp_drafter,
    shapes_matter,  # noqa: F401
    tokenizer,
)

KEPT_ROWS = 1000
PROMPTS = [tuple(oracles.random_ids(n, 200, seed=n)) for n in (5, 40, 70)]
ANSWER = 12
EXAMPLES = settings(max_examples=15, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate))


@dataclass(frozen=True)
class Loss:
    """After so many turns the stage `lost`, counted around, ends; its layers go `to` the one before, after, or anew."""

    turns: int
    lost: int
    to: str


LOSSES = st.lists(
    st.builds(Loss, st.integers(0, 60), st.integers(0, 5), st.sampled_from(["before", "after", "anew"])),
    min_size=1,
    max_size=3,
)


class Cluster:
    """A model's layers in stages, one a node; answers run in it until stages are lost, then in what is left."""

    def __init__(self, model: Engine, spans: list[range], *, drafts: bool) -> None:
        self.model = model
        self.new_drafter = mtp_drafter if drafts else None
        self.computed = 0
        self.stages = [self._stage(span) for span in spans]
        self.pipeline = self._pipeline()
        self.sequences = [Sequence() for _ in PROMPTS]
        self.tokens: list[list[Token]] = [[] for _ in PROMPTS]
        writers = [
            AnswerWriter(tokenizer(), sequence, request(prompt), seed=5, limit=ANSWER)
            for sequence, prompt in zip(self.sequences, PROMPTS, strict=True)
        ]
        self.answers = [Generation(self.pipeline.answers, writer, close_session=False) for writer in writers]
        self.turn()

    def turn(self) -> None:
        """Advance all answers, and then one stage."""
        for answer, written in zip(self.answers, self.tokens, strict=True):
            if answer.finish_reason is None and (token := answer.advance()) is not None:
                written.append(token)
        self.pipeline.link.step()

    def lose(self, lost: int, to: str) -> None:
        """Replace the stages by those without the lost one, each with what the former one of its node leaves."""
        at = lost % len(self.stages)
        left: list[tuple[range, Past | None]] = [(stage.shard.spec.layers, stage.past) for stage in self.stages]
        span = left[at][0]
        if to == "before" and at > 0:
            layers, past = left[at - 1]
            left[at - 1 : at + 1] = [(range(layers.start, span.stop), past)]
        elif to == "after" and at + 1 < len(left):
            layers, past = left[at + 1]
            left[at : at + 2] = [(range(span.start, layers.stop), past)]
        else:
            left[at] = span, None
        self.stages = [self._stage(layers, past) for layers, past in left]
        self.pipeline = self._pipeline()
        going_on = [s for s, answer in zip(self.sequences, self.answers, strict=True) if answer.finish_reason is None]
        self.pipeline.link.send(Retain(frozenset(sequence.id for sequence in going_on)))
        for n, sequence in enumerate(self.sequences):
            if sequence in going_on:
                writer = AnswerWriter.resumed(tokenizer(), sequence)
                self.answers[n] = Generation(self.pipeline.answers, writer, close_session=False)

    def finish(self) -> None:
        while any(answer.finish_reason is None for answer in self.answers):
            self.turn()

    def _pipeline(self) -> Pipeline:
        model = replace(self.model, link=LocalLink(self.stages))
        pipeline = Pipeline(len(self.stages), self.new_drafter, loaded=model)
        pipeline.coordinator.acceptance = Certain()
        return pipeline

    def _stage(self, span: range, past: Past | None = None) -> Stage:
        (whole,) = self.model.link.stages
        assert isinstance(whole, Stage)
        part = replace(whole.shard, spec=ShardSpec(span), layers=whole.shard.layers[span.start : span.stop])
        return Stage(part, f"node of layer {span.start}", KEPT_ROWS, past)


def request(prompt: tuple[int, ...]) -> Request:
    return ask_for(prompt, ANSWER, SAMPLED if len(prompt) % 2 else GREEDY)


@pytest.fixture(scope="module", params=["keys and values", "states"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    if request.param == "keys and values":
        yield engine(1)
    else:
        with toy_family.registered():
            yield load_engine(toy_family.write(tmp_path_factory.mktemp("toy")))


@pytest.fixture(scope="module")
def wanted(model: Engine) -> list[list[Token]]:
    cluster = Cluster(model, [range(model.config.num_hidden_layers)], drafts=False)
    cluster.finish()
    return cluster.tokens


@EXAMPLES
@given(losses=LOSSES, drafts=st.booleans(), uneven=st.booleans())
def test_answers_outlive_any_losses_with_the_same_tokens(
    model: Engine, wanted: list[list[Token]], losses: list[Loss], drafts: bool, uneven: bool
) -> None:
    n = model.config.num_hidden_layers
    spans = [range(1), range(1, n)] if uneven else [range(i, i + 1) for i in range(n)]
    cluster = Cluster(model, spans, drafts=drafts and model.mtp is not None)
    for loss in losses:
        for _ in range(loss.turns):
            cluster.turn()
        cluster.lose(loss.lost, loss.to)
    cluster.finish()
    assert cluster.tokens == wanted
    cluster.pipeline.link.send(Retain(frozenset()))
    cluster.pipeline.link.settle()
    assert [stage.kv_bytes for stage in cluster.stages] == [0] * len(cluster.stages)
    assert all(sequence.id not in stage.past.frames for stage in cluster.stages for sequence in cluster.sequences)


@pytest.mark.parametrize("lost", range(6))
def test_only_the_lost_stage_computes_what_was_computed(wanted: list[list[Token]], model: Engine, lost: int) -> None:
    n = model.config.num_hidden_layers
    cluster = Cluster(model, [range(i, i + 1) for i in range(n)], drafts=False)
    while min(len(tokens) for tokens in cluster.tokens) < ANSWER // 2:
        cluster.turn()
    cluster.pipeline.link.settle()
    known = sum(sequence.n_known for sequence in cluster.sequences)
    cluster.lose(lost, "anew")
    cluster.finish()
    assert cluster.tokens == wanted
    total = sum(len(prompt) + ANSWER - 1 for prompt in PROMPTS)
    for stage in cluster.stages:
        is_new = stage is cluster.stages[lost % n]
        assert stage.counts.recalled == (0 if is_new else pytest.approx(known, abs=len(PROMPTS)))
        assert stage.counts.positions == total - stage.counts.recalled


def test_another_frame_at_the_place_of_a_kept_one_is_computed(model: Engine) -> None:
    cluster = Cluster(model, [range(model.config.num_hidden_layers)], drafts=False)
    rows = model.head.embed(mx.array(PROMPTS[0]))
    prompt, known, other = (Frame("r", n, rows[n:m], FrameKind.PREFILL) for n, m in ((0, 3), (3, 4), (3, 5)))
    (former,) = cluster.stages
    former.run(prompt)
    former.run(known)
    stage, fresh = cluster._stage(former.shard.spec.layers, former.past), cluster._stage(former.shard.spec.layers)
    for frame in (prompt, replace(known, hidden_states=rows[4:5]), other):
        assert mx.array_equal(stage.run(frame).hidden_states, fresh.run(frame).hidden_states)
    assert stage.counts.recalled == 3

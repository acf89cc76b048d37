"""Family checks: what every family is held to, by transformers, by mlx-lm, and by itself divided otherwise.

A check returns a figure for people, or fails. One random model of a family is made, saved and loaded once for all.
"""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np

import mlx_moe
from cluster.cost_reader import read_costs
from mlx_moe import families
from mlx_moe.config import ModelConfig
from mlx_moe.decoding.drafting import Drafter, MTPDrafter
from mlx_moe.decoding.drafting.drafter import Choose
from mlx_moe.layers.batches import TOGETHER
from mlx_moe.layers.steps import finish
from mlx_moe.pipeline.frame import Frame, FrameKind
from mlx_moe.summary import model_parameters, parameter_count
from tests import checkpoints, oracles
from tests import families as family_data
from tests.checkpoints import Model, Shape
from tests.engine import Engine, load_engine, load_peers
from tests.mlx_moe.demo_pipeline import Certain, Pipeline, ask_for
from tests.oracles import TOLERANCE, Answer, relative_difference

SAME = 1e-5
"""Largest difference of a logit between two ways to run the engine, as a share of their spread; 1e-6 is measured."""

BF16_SLACK = 1.2
"""How far our error in bf16 may exceed transformers', both of them random."""

N_IDS = 130
N_TOKENS = 64
CHUNKS = ([N_IDS], [70, 33, 17, 2, *[1] * 8])
"""Some with enough chosen experts to be sorted, some not; in the end decode."""


class FamilyUnderTest:
    """A family's random model, in transformers and loaded from the files of a published checkpoint."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data = family_data.read(name)
        self.shape = Shape(name)

    @cached_property
    def ids(self) -> list[int]:
        """Random ids."""
        return oracles.random_ids(N_IDS, self.config.vocab_size)

    @cached_property
    def directory(self) -> Path:
        """Where it lies: a tensor an expert, config.json as on the hub."""
        return checkpoints.saved(self.shape, hub_dialect=True)

    @cached_property
    def oracle(self) -> Model:
        """The model in transformers, float32."""
        return self.shape.model()

    @cached_property
    def whole(self) -> Engine:
        """The model in one stage."""
        return load_engine(self.directory)

    @property
    def config(self) -> ModelConfig:
        """Its configuration."""
        return self.whole.config

    @cached_property
    def answer(self) -> Answer:
        """What it writes after a prompt, judged by transformers."""
        return oracles.clear_answer(self.oracle, lambda prompt: self.whole.greedy(prompt, N_TOKENS))

    @cached_property
    def wanted(self) -> list[oracles.Logits]:
        """The logits of `ids` in each of CHUNKS."""
        return [self.whole.logits(self.ids, chunks) for chunks in CHUNKS]

    @cached_property
    def stages(self) -> Engine:
        """The model in a stage a layer."""
        return load_engine(self.directory, [range(i, i + 1) for i in range(self.config.num_hidden_layers)])


def logits_and_tokens_equal_those_of_transformers(family: FamilyUnderTest) -> str:
    """Hold 64 greedy tokens, and the logits at them, to transformers in float32."""
    answer = family.answer
    assert answer.written == answer.likeliest
    got = family.whole.logits(answer.prompt + answer.written)
    return _close(got, answer.logits, TOLERANCE)


def variants_equal_those_of_transformers(family: FamilyUnderTest) -> str:
    """Hold the logits of each further configuration to transformers."""
    worst = 0.0
    for name, changes in family.data.variants.items():
        oracle = Shape(family.name, changes).model()
        with tempfile.TemporaryDirectory() as directory:
            got = load_engine(checkpoints.save(oracle, Path(directory))).logits(family.ids)
        difference = relative_difference(got, oracles.logits(oracle, family.ids))
        assert difference <= TOLERANCE, f"{name}: {difference:.1e}"
        worst = max(worst, difference)
    return f"{len(family.data.variants)}, {worst:.1e}"


def layouts_of_transformers_give_the_same_bits(family: FamilyUnderTest) -> str:
    """Hold the fused layout, and the config.json of transformers 5, to the layout and config.json of the hub."""
    for fused in (False, True):
        got = load_engine(checkpoints.saved(family.shape, fused=fused)).logits(family.ids)
        assert np.array_equal(got, family.wanted[0]), f"fused={fused}"
    return "equal"


def conversions_of_mlx_lm_have_the_same_numbers(family: FamilyUnderTest) -> str:
    """Hold mlx-lm's stacked conversion to the original, and its 4-bit one to its own numbers unpacked."""
    if not family.data.mlx_lm or not _mlx_lm_has(family.name):
        return "not by mlx-lm"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        plain = checkpoints.convert_with_mlx_lm(family.directory, directory / "plain")
        figure = _close(load_engine(plain).logits(family.ids), family.wanted[0], TOLERANCE)
        packed = checkpoints.convert_with_mlx_lm(family.directory, directory / "packed", bits=4, group_size=64)
        unpacked = oracles.unpack(packed, directory / "unpacked")
        figures = _close(load_engine(packed).logits(family.ids), load_engine(unpacked).logits(family.ids), TOLERANCE)
        return f"{figure}, 4 bit {figures}"


def chunks_and_decode_equal_prefill_at_once(family: FamilyUnderTest) -> str:
    """Hold the logits of chunks and of single positions to those of one chunk."""
    at_once, in_chunks = family.wanted
    return _close(in_chunks, at_once, SAME)


def rewinds_and_forks_write_the_tokens_of_a_fresh_prefill(family: FamilyUnderTest) -> str:
    """Edit a prompt far back and nearby, borrow another session's, and draft wrongly: no token changes."""
    prompt, other = family.ids[:100], oracles.random_ids(20, family.config.vocab_size, seed=1)
    pipeline = Pipeline(len(family.stages.link.stages), loaded=family.stages)
    session = pipeline.new_session()
    for ids in (prompt, [*prompt[:97], *other], [*prompt[:10], *other]):
        (tokens,) = pipeline.finish(pipeline.ask(ask_for(ids, 8), session))
        assert [token.id for token in tokens] == family.whole.greedy(ids, 8), f"{len(ids)} positions"
    pipeline.finish(pipeline.ask(ask_for(prompt, 8), pipeline.new_session()))
    borrower = [*prompt[:70], *other]
    (tokens,) = pipeline.finish(pipeline.ask(ask_for(borrower, 8), pipeline.new_session()))
    assert [token.id for token in tokens] == family.whole.greedy(borrower, 8)
    pipeline.close()
    known = [*prompt, *family.whole.greedy(prompt, 16)]
    drafted, accepted = _drafted(family, family.stages, lambda: Guesses(known), prompt, known[len(prompt) :])
    assert drafted > accepted > 0
    return f"{accepted} of {drafted} drafts right"


def splits_of_layers_and_experts_equal_the_whole_to_the_bit(family: FamilyUnderTest) -> str:
    """Hold a stage a layer, and layers whose experts have several owners, to the whole."""
    splits = [family.stages]
    if family.config.moe_layers:
        splits += [_with_owners(family, owners) for owners in _divisions(family.config.moe.n_routed_experts)]
    for split, (chunks, wanted) in itertools.product(splits, zip(CHUNKS, family.wanted, strict=True)):
        assert np.array_equal(split.logits(family.ids, chunks), wanted)
    return f"{len(splits)} divisions"


def steps_of_several_sequences_have_the_bits_that_they_have_alone(family: FamilyUnderTest) -> str:
    """Decode sequences of other lengths alone, then together, in a stage a layer and with divided experts."""
    engines = [family.stages]
    if family.config.moe_layers:
        engines.append(_with_owners(family, _divisions(family.config.moe.n_routed_experts)[0]))
    for engine in engines:
        alone, together = (_steps(engine, family.ids, at_once) for at_once in (1, TOGETHER))
        assert mx.array_equal(alone, together)
    return f"{TOGETHER} sequences"


def planned_bytes_equal_the_loaded_ones(family: FamilyUnderTest) -> str:
    """Hold the planner's bytes of the weights to those in memory, and of caches to those kept for 256 positions."""
    model = mlx_moe.load(family.directory)
    (placed,) = model.placement
    assert read_costs(str(family.directory), float_bytes=4).weights_bytes == placed.weights_bytes
    model.close()
    (stage,) = family.whole.link.stages
    before = stage.kv_bytes
    family.whole.logits(family.ids, [*[20] * 5, *[1] * 30], "costs")
    kept = stage.kv_bytes - before
    stage.release("costs")
    assert kept == families.cache_costs(family.config, 4).nbytes(256)
    return f"{placed.weights_bytes:,}"


def it_has_as_many_parameters_as_in_transformers(family: FamilyUnderTest) -> str:
    """Count the parameters, and the buffers that are stored."""
    model = family.oracle
    wanted = sum(p.numel() for p in model.parameters())
    wanted += sum(b.numel() for name, b in model.named_buffers() if name.endswith("e_score_correction_bias"))
    assert parameter_count(model_parameters(family.config)) == wanted
    return f"{wanted:,}"


def its_mtp_layer_drafts_as_that_of_transformers(family: FamilyUnderTest) -> str:
    """Hold the MTP layer's logits to transformers', and an answer with its drafts to the one without."""
    if family.data.mtp is None:
        return "none"
    if isinstance(family.data.mtp, str):
        return family.data.mtp
    shape = Shape(family.name, {"num_hidden_layers": family.data.config["num_hidden_layers"] + 1, **family.data.mtp})
    with tempfile.TemporaryDirectory() as name:
        directory = checkpoints.save_with_mtp(shape, Path(name) / "model")
        engine = load_engine(directory, [range(i, i + 1) for i in range(family.config.num_hidden_layers)])
        ids = family.ids
        assert engine.mtp is not None
        hidden_states = engine.head.normed(engine.hidden_states(ids[:-1], [len(ids) - 1]))
        _, logits = engine.mtp(hidden_states, mx.array(ids[1:]), engine.mtp.new_cache())
        wanted = oracles.mtp_logits(oracles.transformers_model(directory), ids)
        figure = _close(np.array(logits), wanted, TOLERANCE)
        written = engine.greedy(ids[:40], 16)
        drafted, _ = _drafted(family, engine, partial(MTPDrafter, engine.mtp), ids[:40], written)
        assert drafted > 0
        return figure


def its_error_in_bf16_is_no_larger_than_that_of_transformers(family: FamilyUnderTest) -> str:
    """Compare both errors in bf16, against transformers in float32 with the same numbers.

    They are the medians over positions of a position's root mean square: where two experts are as good, rounding alone
    chooses, and such positions would hide the others.
    """
    directory = checkpoints.saved(family.shape, dtype="bfloat16", hub_dialect=True)
    ids = oracles.random_ids(256, family.config.vocab_size)
    wanted = oracles.logits(oracles.transformers_model(directory), ids)
    theirs = oracles.logits(oracles.transformers_model(directory, "bfloat16"), ids)
    attention = mx.fast.scaled_dot_product_attention
    with (
        mock.patch.object(mx, "gather_mm", partial(_in_float32, mx.gather_mm)),
        mock.patch.object(mx.fast, "scaled_dot_product_attention", partial(_in_float32, attention)),
    ):
        ours = load_engine(directory, dtype=mx.bfloat16).logits(ids)
    by_position = (np.sqrt(np.square(got - wanted).mean(axis=-1)) for got in (ours, theirs))
    errors = [float(np.median(error) / wanted.std()) for error in by_position]
    assert errors[0] <= BF16_SLACK * errors[1], f"{errors[0]:.4f} and {errors[1]:.4f}"
    return f"{errors[0]:.4f}, theirs {errors[1]:.4f}"


CHECKS: dict[str, Callable[[FamilyUnderTest], str]] = {
    check.__name__.replace("_", " "): check
    for check in (
        logits_and_tokens_equal_those_of_transformers,
        variants_equal_those_of_transformers,
        layouts_of_transformers_give_the_same_bits,
        conversions_of_mlx_lm_have_the_same_numbers,
        chunks_and_decode_equal_prefill_at_once,
        rewinds_and_forks_write_the_tokens_of_a_fresh_prefill,
        splits_of_layers_and_experts_equal_the_whole_to_the_bit,
        steps_of_several_sequences_have_the_bits_that_they_have_alone,
        planned_bytes_equal_the_loaded_ones,
        it_has_as_many_parameters_as_in_transformers,
        its_mtp_layer_drafts_as_that_of_transformers,
        its_error_in_bf16_is_no_larger_than_that_of_transformers,
    )
}


class Guesses:
    """A drafter that knows the answer and says a wrong token in every third draft."""

    observer = None

    def __init__(self, known: Sequence[int]) -> None:
        self._known = known
        self._n_drafts = 0

    def draft(self, token_ids: Sequence[int], in_flight: Sequence[int], choose: Choose) -> int | None:  # noqa: ARG002
        """See Drafter."""
        position = len(token_ids) + len(in_flight)
        if position >= len(self._known):
            return None
        self._n_drafts += 1
        return self._known[position] ^ (self._n_drafts % 3 == 0)

    def rewind(self, position: int) -> None:
        """See Drafter."""

    def fork(self, positions: int) -> Drafter:
        """See Drafter."""
        raise AssertionError(f"nobody borrows {positions} positions")


def _drafted(
    family: FamilyUnderTest,
    engine: Engine,
    new_drafter: Callable[[], Drafter],
    prompt: Sequence[int],
    wanted: list[int],
) -> tuple[int, int]:
    """Answer with drafts, expect the wanted tokens, and return how many were drafted and accepted."""
    stages = range(len(engine.link.stages))
    pipeline = Pipeline(len(stages), new_drafter, loaded=engine)
    pipeline.coordinator.acceptance = Certain()
    answer = pipeline.ask(ask_for(prompt, len(wanted)))
    (tokens,) = pipeline.finish(
        answer, steps=(0, 1, *stages)
    )  # the first stages run drafts before the last refuses one
    assert [token.id for token in tokens] == wanted, family.name
    pipeline.close()
    return answer.stats.drafted, answer.stats.accepted


def _steps(engine: Engine, ids: Sequence[int], at_once: int) -> mx.array:
    """Return the hidden states of three steps of TOGETHER sequences, so many computed at once."""
    embedded = engine.head.embed(mx.array(ids))
    stages, names = engine.link.stages, [f"batch{i}" for i in range(TOGETHER)]
    found = []
    for step in range(3):
        frames = []
        for i, name in enumerate(names):
            length = 1 + 3 * i
            if not step:
                frame = Frame(name, 0, embedded[:length], FrameKind.PREFILL)
                for stage in stages:
                    frame = stage.run(frame)
            frames.append(Frame(name, length + step, embedded[length + step :][:1], FrameKind.DECODE, 7))
        for start in range(0, TOGETHER, at_once):
            batch = frames[start : start + at_once]
            for stage in stages:
                batch = [stage.run(*batch)] if at_once == 1 else finish(stage.together(batch))
            found += [frame.hidden_states for frame in batch]
    for stage, name in itertools.product(stages, names):
        stage.release(name)
    return mx.concatenate(found)


def _divisions(n_experts: int) -> list[list[Sequence[int]]]:
    """Return the experts of a stage, then of each of its peers: in turns, and unevenly, none in the stage."""
    return [[range(0, n_experts, 2), range(1, n_experts, 2)], [(), [n_experts - 1], range(1, n_experts - 1), [0]]]


def _with_owners(family: FamilyUnderTest, owners: Sequence[Sequence[int]]) -> Engine:
    """Load two stages whose experts are divided alike in every layer."""
    n_layers = family.config.num_hidden_layers
    owned = [{layer: tuple(experts) for layer in family.config.moe_layers} for experts in owners]
    layers = [range(1), range(1, n_layers)]
    return load_engine(family.directory, layers, owned[0], load_peers(family.directory, owned))


def _in_float32(operation: Callable[..., mx.array], *arrays: mx.array, **options: Any) -> mx.array:
    """Run in float32 and round, as on a GPU: MLX's CPU backend has no other `gather_mm`, and rounds scores."""

    def wide(value: Any) -> Any:
        is_float = isinstance(value, mx.array) and mx.issubdtype(value.dtype, mx.floating)
        return value.astype(mx.float32) if is_float else value

    options = {name: wide(value) for name, value in options.items()}
    return operation(*map(wide, arrays), **options).astype(arrays[0].dtype)


def _close(got: oracles.Logits, wanted: oracles.Logits, tolerance: float) -> str:
    difference = relative_difference(got, wanted)
    assert difference <= tolerance, f"{difference:.1e}"
    return f"{difference:.1e}"


def _mlx_lm_has(model_type: str) -> bool:
    from mlx_lm.utils import MODEL_REMAPPING

    return importlib.util.find_spec(f"mlx_lm.models.{MODEL_REMAPPING.get(model_type, model_type)}") is not None

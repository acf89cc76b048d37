"""Splits: however layers, experts and positions are divided, the numbers are those of the whole."""

import itertools
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mlx_moe
from mlx_moe.config import MLAConfig
from mlx_moe.errors import FrameError, NumericsError
from mlx_moe.layers.expert_dispatch import Pairs
from mlx_moe.layers.latent_attention import absorb_up_to
from mlx_moe.pipeline.frame import Fork, Frame, FrameKind, Refused, Release
from mlx_moe.pipeline.shard_spec import ShardSpec
from tests import checkpoints, oracles
from tests.checkpoints import Shape
from tests.engine import Engine, OwnedExperts, load_engine, load_peers
from tests.oracles import relative_difference

pytestmark = pytest.mark.oracle

FAMILIES = ["deepseek_v3", "qwen3_moe"]
VOCAB_SIZE, N_EXPERTS, N_LAYERS = 256, 16, 4
IDS = oracles.random_ids(300, VOCAB_SIZE)  # more than a KV cache's first 256 positions
SAME = 1e-5
"""Largest difference of a logit between two ways to run the engine; what is measured is about 1e-6."""

Owners = Sequence[Sequence[int]]
"""The experts that the leader owns, then each of its peers."""

OWNERS: dict[str, Owners] = {
    "halves": [range(8), range(8, 16)],
    "quarters": [range(4), range(4, 8), range(8, 12), range(12, 16)],
    "in turns": [range(0, 16, 2), range(1, 16, 2)],
    "uneven": [[15], [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], [0, 2], [1]],
    "all with peers": [[], range(5), range(5, 16)],
}


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest) -> Path:
    return checkpoints.saved(Shape(request.param), hub_dialect=True)


@pytest.fixture(scope="module")
def whole(directory: Path) -> Engine:
    return load_engine(directory)


Reference = Callable[[Sequence[int]], oracles.Logits]


@pytest.fixture(scope="module")
def reference(whole: Engine) -> Reference:
    """Return what runs as many of IDS as some chunks hold through the whole, once for all splits."""

    @cache
    def logits(*chunks: int) -> oracles.Logits:
        return whole.logits(IDS[: sum(chunks)], chunks)

    return lambda chunks: logits(*chunks)


@pytest.fixture(scope="module")
def wanted(reference: Reference) -> oracles.Logits:
    return reference([len(IDS)])


def load_split(directory: Path, owners: Owners, layers: Sequence[range] = (range(N_LAYERS),)) -> Engine:
    """Load stages whose experts are divided alike in every layer."""
    owned = [{layer: tuple(experts) for layer in range(N_LAYERS)} for experts in owners]
    return load_split_by_layer(directory, owned, layers)


def load_split_by_layer(
    directory: Path, owned: Sequence[OwnedExperts], layers: Sequence[range] = (range(N_LAYERS),)
) -> Engine:
    """Load stages; `owned` are the experts of the stages, then of each of their peers."""
    return load_engine(directory, layers, owned[0], load_peers(directory, owned))


def chunks_of(length: int, total: int = len(IDS)) -> list[int]:
    """Return the lengths of equal chunks, the last one shorter."""
    return [min(length, total - start) for start in range(0, total, length)]


@pytest.mark.parametrize("length", [1, 7, 57, 58, 59, 256, 299])
def test_chunked_prefill_equals_prefill_at_once(whole: Engine, wanted: oracles.Logits, length: int) -> None:
    assert relative_difference(whole.logits(IDS, chunks_of(length)), wanted) <= SAME


def test_chunks_of_uneven_lengths_equal_prefill_at_once(whole: Engine, wanted: oracles.Logits) -> None:
    assert relative_difference(whole.logits(IDS, [58, 1, 59, 3, 100, 1, 1, 58, 19]), wanted) <= SAME


def test_the_lengths_above_lie_on_both_sides_of_the_absorbed_forms_limit(whole: Engine) -> None:
    attention = whole.config.attention
    if isinstance(attention, MLAConfig):
        assert absorb_up_to(attention) == 58


@pytest.mark.parametrize("prompt", [1, 58, 59, 255])
def test_decode_equals_prefill(whole: Engine, wanted: oracles.Logits, prompt: int) -> None:
    chunks = [prompt] + [1] * 45
    got = whole.logits(IDS[: prompt + 45], chunks)
    assert relative_difference(got, wanted[: prompt + 45]) <= SAME


@pytest.mark.parametrize("outputs", [1, 5, 58, 59, 100])
def test_the_last_layer_returns_what_is_asked_for_and_keeps_what_all_need(
    whole: Engine, wanted: oracles.Logits, outputs: int
) -> None:
    embedded = whole.head.embed(mx.array(IDS[:100]))
    whole.link.send(Frame("r", 0, embedded, FrameKind.PREFILL, outputs=outputs))
    (frame,) = whole.link.receive("r")
    assert isinstance(frame, Frame)
    assert (frame.position, frame.hidden_states.shape[0]) == (100 - outputs, outputs)
    assert relative_difference(np.array(whole.head.logits(frame.hidden_states)), wanted[100 - outputs : 100]) <= SAME
    assert relative_difference(run(whole, IDS[100:140], 100), wanted[100:140]) <= SAME


@pytest.mark.parametrize("cuts", [[2], [1], [3], [1, 2], [1, 3], [1, 2, 3]])
def test_any_split_of_layers_equals_the_whole_to_the_bit(
    directory: Path, reference: Reference, cuts: list[int]
) -> None:
    ends = [0, *cuts, N_LAYERS]
    split = load_engine(directory, [range(a, b) for a, b in itertools.pairwise(ends)])
    for chunks in (chunks_of(100), [96, *[1] * 4]):
        assert np.array_equal(split.logits(IDS[: sum(chunks)], chunks), reference(chunks))


CHUNKS = ([300], [100, 57, 17, 16, 15], [5, 40, *[1] * 8])
"""Chunks of 16 positions and more have 64 chosen pairs: they are sorted by expert, the others are not."""


@pytest.mark.parametrize("name", OWNERS)
def test_any_split_of_experts_equals_the_whole_to_the_bit(directory: Path, reference: Reference, name: str) -> None:
    split = load_split(directory, OWNERS[name])
    for chunks in CHUNKS:
        assert np.array_equal(split.logits(IDS[: sum(chunks)], chunks), reference(chunks))


@pytest.mark.parametrize("outputs", [1, 20])
def test_a_last_layer_with_few_outputs_equals_the_whole_to_the_bit(
    directory: Path, whole: Engine, outputs: int
) -> None:
    split = load_split(directory, OWNERS["quarters"])
    results = []
    for engine in (whole, split):
        engine.link.send(Frame("r", 0, engine.head.embed(mx.array(IDS[:64])), FrameKind.PREFILL, outputs=outputs))
        (frame,) = engine.link.receive("r")
        assert isinstance(frame, Frame)
        results.append(np.array(frame.hidden_states))
    assert np.array_equal(*results)


@pytest.mark.parametrize("name", ["halves", "quarters"])
def test_a_split_of_experts_writes_the_tokens_of_the_whole(directory: Path, whole: Engine, name: str) -> None:
    prompt = IDS[:40]
    assert load_split(directory, OWNERS[name]).greedy(prompt, 24) == whole.greedy(prompt, 24)


def test_experts_may_be_split_otherwise_in_every_layer(directory: Path, wanted: oracles.Logits) -> None:
    everything = frozenset(range(N_EXPERTS))
    leader = {layer: tuple(range(layer, 16, layer + 1)) for layer in range(N_LAYERS)}
    peer = {layer: tuple(everything - set(experts)) for layer, experts in leader.items()}
    assert np.array_equal(load_split_by_layer(directory, [leader, peer]).logits(IDS), wanted)


def test_layers_and_experts_may_be_split_together(directory: Path, reference: Reference) -> None:
    split = load_split(directory, OWNERS["quarters"], [range(1), range(1, 3), range(3, 4)])
    chunks = [200, 60, *[1] * 40]
    assert np.array_equal(split.logits(IDS, chunks), reference(chunks))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["fused", "stacked", "4 bit", "mxfp4"])
def test_owned_experts_are_read_from_every_layout(family: str, layout: str, tmp_path: Path) -> None:
    source = checkpoints.saved(Shape(family), fused=layout == "fused", hub_dialect=layout != "fused")
    if layout != "fused":
        options = {"4 bit": {"bits": 4, "group_size": 64}, "mxfp4": {"bits": 4, "group_size": 32, "mode": "mxfp4"}}
        source = checkpoints.convert_with_mlx_lm(source, tmp_path / "mlx", **options.get(layout, {}))
    whole = load_engine(source)
    split = load_split(source, OWNERS["uneven"], [range(2), range(2, 4)])
    for chunks in ([100], [12, 1, 1]):
        ids = IDS[: sum(chunks)]
        assert np.array_equal(split.logits(ids, chunks), whole.logits(ids, chunks))


def test_a_peer_holds_nothing_but_its_experts(whole: Engine) -> None:
    owned = {layer: (1, 2) if layer != 2 else () for layer in range(N_LAYERS)}
    names = [p.name for p in ShardSpec(range(N_LAYERS), owned).expert_parameters(whole.config)]
    layers = [layer for layer in sorted(whole.config.moe_layers) if layer != 2]
    assert names == [
        f"model.layers.{layer}.mlp.experts.{name}_proj" for layer in layers for name in ("gate", "up", "down")
    ]


def test_an_expert_that_is_not_owned_is_refused_by_its_number(directory: Path) -> None:
    (peer,) = load_peers(directory, [{}, dict.fromkeys(range(N_LAYERS), (0, 3))]).shards
    pairs = Pairs(np.array([0, 0, 1]), np.array([3, 5, 7]), by_expert=False)
    with pytest.raises(FrameError, match=r"experts \[5, 7\] are asked for"):
        peer.experts[1].pairs(mx.zeros((2, 128)), pairs)


def test_an_expert_that_overflows_for_a_position_sent_elsewhere_does_not_spoil_it(tmp_path: Path) -> None:
    directory = checkpoints.save(Shape("deepseek_v3").model(), tmp_path)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for layer in range(1, N_LAYERS):
        tensors[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"][0] = -9.0  # is never chosen
        tensors[f"model.layers.{layer}.mlp.experts.0.down_proj.weight"][:] = float("inf")
    save_file(tensors, path, metadata={"format": "pt"})
    ids = IDS[:40]
    wanted = load_engine(directory).logits(ids)
    assert np.isfinite(wanted).all()
    assert relative_difference(load_split(directory, OWNERS["halves"]).logits(ids), wanted) <= SAME


@pytest.mark.parametrize("layers", [[range(4)], [range(2), range(2, 4)]], ids=["one stage", "two stages"])
@pytest.mark.parametrize("position", [0, 1, 30, 99])
def test_a_frame_below_what_is_kept_rewinds_and_gives_the_same_as_fresh(
    directory: Path, wanted: oracles.Logits, layers: list[range], position: int
) -> None:
    engine = load_engine(directory, layers)
    abandoned = oracles.random_ids(100 - position, VOCAB_SIZE, seed=1)
    engine.logits([*IDS[:position], *abandoned], [n for n in (position, 100 - position) if n])
    got = run(engine, IDS[position:150], position)
    assert relative_difference(got, wanted[position:150]) <= SAME
    assert relative_difference(run(engine, IDS[150:151], 150), wanted[150:151]) <= SAME


def test_the_same_frame_again_gives_the_same_bits(whole: Engine) -> None:
    whole.logits(IDS[:90], [60, 30])
    again = run(whole, IDS[60:90], 60)
    assert np.array_equal(run(whole, IDS[60:90], 60), again)


def test_a_frame_after_a_hole_is_an_error_and_changes_nothing(directory: Path, wanted: oracles.Logits) -> None:
    engine = load_engine(directory, [range(2), range(2, 4)])
    run(engine, IDS[:40], 0)
    with pytest.raises(FrameError, match=r"node-0.* position 41.* only 40 "):
        run(engine, IDS[41:50], 41)
    with pytest.raises(FrameError, match=r"position 1.* only 0 "):
        run(engine, IDS[1:2], 1, "another")
    assert relative_difference(run(engine, IDS[40:60], 40), wanted[40:60]) <= SAME


def test_requests_between_each_other_get_the_bits_they_get_alone(whole: Engine) -> None:
    other = oracles.random_ids(90, VOCAB_SIZE, seed=2)
    alone = [whole.logits(ids[:90], [60, 29, 1]) for ids in (IDS, other)]
    parts: list[list[oracles.Logits]] = [[], []]
    for start, end in [(0, 60), (60, 89), (89, 90)]:
        for part, ids, name in zip(parts, (IDS, other), ("a", "b"), strict=True):
            part.append(run(whole, ids[start:end], start, name))
    for part, want in zip(parts, alone, strict=True):
        assert np.array_equal(np.concatenate(part), want)


@pytest.mark.parametrize("positions", [1, 64, 89, 90])
def test_a_fork_and_its_source_go_on_with_the_bits_they_have_alone(whole: Engine, positions: int) -> None:
    other = oracles.random_ids(60, VOCAB_SIZE, seed=3)
    alone = run(whole, IDS[:90], 0), run(whole, IDS[90:92], 90)
    run(whole, IDS[:90], 0)
    wanted = run(whole, other, positions)
    assert np.array_equal(run(whole, IDS[:90], 0, "source"), alone[0])
    whole.link.send(Fork("fork", "source", positions))
    forked = run(whole, other[:60], positions, "fork")
    assert np.array_equal(run(whole, IDS[90:92], 90, "source"), alone[1])
    assert np.array_equal(forked, wanted)
    whole.link.send(Release("source"))
    assert np.array_equal(run(whole, other[30:], positions + 30, "fork"), run(whole, other[30:], positions + 30))


def test_a_fork_of_more_than_is_kept_is_an_error_with_both_numbers(whole: Engine) -> None:
    run(whole, IDS[:10], 0, "short")
    with pytest.raises(FrameError, match=r"node-0: a fork of 11 positions, but only 10 "):
        whole.link.send(Fork("fork", "short", 11))
    with pytest.raises(FrameError, match="a fork of 1 positions, but only 0 "):
        whole.link.send(Fork("fork", "nobody", 1))


def test_a_stage_counts_what_it_ran_and_what_it_keeps(directory: Path) -> None:
    engine = load_engine(directory, [range(2), range(2, 4)])
    run(engine, IDS[:40], 0)
    run(engine, IDS[40:41], 40)
    for stage in engine.link.stages:
        assert (stage.counts.frames, stage.counts.positions, stage.kv_positions) == (2, 41, 41)


def run(engine: Engine, ids: Sequence[int], position: int, sequence_id: str = "r") -> oracles.Logits:
    """Run one frame; return the logits at its positions."""
    kind = FrameKind.DECODE if len(ids) == 1 else FrameKind.PREFILL
    engine.link.send(Frame(sequence_id, position, engine.head.embed(mx.array(list(ids))), kind))
    (frame,) = engine.link.receive(sequence_id)
    if isinstance(frame, Refused):
        raise frame.error
    return np.array(engine.head.logits(frame.hidden_states))


def spoil(directory: Path, tensor: str, row: int = 0) -> Path:
    """Put a NaN into a stored tensor."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors[tensor][row] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("model.layers.0.self_attn.o_proj.weight", 0),
        ("model.layers.2.mlp.gate.weight", 2),
        ("model.layers.3.input_layernorm.weight", 3),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_nan_in_weights_is_an_error_that_names_node_and_layer(
    family: str, tensor: str, layer: int, tmp_path: Path
) -> None:
    directory = spoil(checkpoints.save(Shape(family).model(), tmp_path), tensor)
    engine = load_engine(directory, [range(1), range(1, 3), range(3, 4)])
    with pytest.raises(NumericsError, match=f"node-{[0, 1, 1, 2][layer]}, layer {layer}: "):
        engine.logits(IDS[:20])


@pytest.mark.parametrize("n_prompt", [1, 8])
def test_nan_that_only_a_decoded_token_meets_names_the_layer_too(n_prompt: int, tmp_path: Path) -> None:
    oracle = Shape("qwen3_moe").model()
    prompt = IDS[:n_prompt]
    answer = oracles.greedy(oracle, prompt, 8)
    last = next(i for i, token_id in enumerate(answer) if token_id not in prompt)
    model = mlx_moe.load(spoil(checkpoints.save(oracle, tmp_path), "model.embed_tokens.weight", answer[last]))
    sampling = mlx_moe.SamplingParams(temperature=0.0)
    generation = model.generate(mlx_moe.Request(tuple(prompt), sampling, max_tokens=8, ignore_eos=True))
    assert [next(generation).id for _ in range(last + 1)] == answer[: last + 1]
    with pytest.raises(NumericsError, match="layer 0: "):
        next(generation)

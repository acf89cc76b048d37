"""Layers that differ: a family whose layers alternate attentions and feed-forwards, and one of whose caches is a state.

However it is split, its numbers are those of the whole. A stage that cannot go back to a frame's position says where
it stands, and goes on from there with the same bits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.cost_reader import read_costs
from mlx_moe import families
from mlx_moe.checkpoint import json_file
from mlx_moe.errors import RewindError
from mlx_moe.layers.cache_costs import CacheCosts
from mlx_moe.pipeline.frame import Frame, FrameKind
from mlx_moe.pipeline.stage import Stage
from tests import oracles
from tests.engine import Engine, load_engine, load_peers
from tests.mlx_moe import toy_family
from tests.mlx_moe.toy_family import N_EXPERTS, N_LAYERS, SNAPSHOTS

IDS = oracles.random_ids(90, 256)
CHUNKS = [[90], [40, 33, 9, *[1] * 8]]


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with toy_family.registered():
        yield


@pytest.fixture(scope="module")
def directory(known: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    return toy_family.write(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def whole(directory: Path) -> Engine:
    return load_engine(directory)


@pytest.fixture(scope="module")
def loaded_stage(directory: Path) -> Stage:
    return load_engine(directory).link.stages[0]


@pytest.fixture
def stage(loaded_stage: Stage) -> Iterator[Stage]:
    """Return a stage that keeps nothing, and see afterwards that it keeps nothing."""
    yield loaded_stage
    assert loaded_stage.kv_bytes == 0


@pytest.mark.parametrize("cuts", [[1], [2], [3], [1, 2, 3]])
def test_any_split_of_layers_equals_the_whole_to_the_bit(directory: Path, whole: Engine, cuts: list[int]) -> None:
    split = load_engine(directory, [range(a, b) for a, b in itertools.pairwise([0, *cuts, N_LAYERS])])
    for chunks in CHUNKS:
        assert np.array_equal(split.logits(IDS, chunks), whole.logits(IDS, chunks))


@pytest.mark.parametrize("owners", [[range(4), range(4, 8)], [[7], [1, 3, 5], [0, 2, 4, 6]], [[], range(N_EXPERTS)]])
def test_any_split_of_experts_equals_the_whole_to_the_bit(
    directory: Path, whole: Engine, owners: Sequence[Sequence[int]]
) -> None:
    owned = [{layer: tuple(experts) for layer in range(N_LAYERS)} for experts in owners]
    split = load_engine(directory, [range(2), range(2, 4)], owned[0], load_peers(directory, owned))
    for chunks in CHUNKS:
        assert np.array_equal(split.logits(IDS, chunks), whole.logits(IDS, chunks))


def test_decode_equals_prefill(whole: Engine) -> None:
    chunks = [[90], [30] * 3, [60, *[1] * 30]]
    at_once, *others = [whole.logits(IDS, lengths) for lengths in chunks]
    for logits in others:
        assert oracles.relative_difference(logits, at_once) <= 1e-5


def test_costs_tell_fixed_bytes_from_those_of_a_position(directory: Path, stage: Stage) -> None:
    config = families.read_config(json_file.read(directory / "config.json"))
    states, keys_and_values = 2 * SNAPSHOTS * 4 * 16 * 16 * 4, 2 * 2 * 2 * 16 * 4
    assert families.cache_costs(config, 4) == CacheCosts(states, keys_and_values)
    for n in range(SNAPSHOTS):
        send(stage, "costs", n, 1)
    assert stage.kv_bytes == states + 256 * keys_and_values  # KV caches grow by 256 positions
    stage.release("costs")
    costs = read_costs(str(directory), float_bytes=4)
    assert [layer.cache for layer in costs.layers] == 2 * [CacheCosts(0, keys_and_values // 2), CacheCosts(states // 2)]
    assert [layer.expert_bytes > 0 for layer in costs.layers] == [True, False, False, True]


def test_a_rewind_to_the_end_of_a_recent_frame_goes_on_with_the_bits_of_a_fresh_request(stage: Stage) -> None:
    wanted = [send(stage, "fresh", *frame) for frame in [(0, 40), (40, 1), (41, 1)]]
    for frame in [(0, 40), (40, 1), (41, 1), (42, 1)]:
        send(stage, "again", *frame, seed=frame[0] // 41)
    assert np.array_equal(send(stage, "again", 41, 1), wanted[2])
    release(stage, "fresh", "again")


def test_a_stage_that_cannot_go_back_says_where_it_stands_and_goes_on_from_there(stage: Stage) -> None:
    frames = [(0, 30), (30, 20), (50, 1), (51, 1), (52, 1), (53, 1), (54, 1)]
    wanted = [send(stage, "fresh", *frame) for frame in frames]
    for frame in frames:
        send(stage, "r", *frame)
    counts = stage.counts.frames
    with pytest.raises(RewindError, match="cannot rewind to position 51, they stand at 0") as raised:
        send(stage, "r", 51, 1)
    assert (raised.value.reached, stage.kv_positions, stage.counts.frames) == (0, 55, counts)  # the fresh one's
    assert [np.array_equal(send(stage, "r", *f), w) for f, w in zip(frames, wanted, strict=True)] == [True] * 7
    release(stage, "fresh", "r")


def test_a_rewind_to_the_middle_of_a_frame_falls_back_to_where_it_began(stage: Stage) -> None:
    for frame in [(0, 30), (30, 20)]:
        send(stage, "r", *frame)
    with pytest.raises(RewindError) as raised:
        send(stage, "r", 37, 5)
    assert (raised.value.reached, stage.kv_positions) == (30, 30)
    release(stage, "r")


def test_a_fork_begins_with_as_much_as_the_states_allow(stage: Stage) -> None:
    for frame in [(0, 30), (30, 20), (50, 1)]:
        send(stage, "source", *frame)
    stage.fork("source", "fork", 50)
    assert np.array_equal(send(stage, "fork", 50, 1), send(stage, "source", 50, 1))
    stage.fork("source", "fork", 45)
    with pytest.raises(RewindError) as raised:
        send(stage, "fork", 45, 5)
    assert raised.value.reached == 30
    assert np.array_equal(send(stage, "fork", 30, 20), send(stage, "source", 30, 20))
    release(stage, "source", "fork")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=12))
def test_whatever_is_sent_again_the_last_positions_have_the_bits_of_a_fresh_request(
    loaded_stage: Stage, tries: list[tuple[int, int]]
) -> None:
    stage, boundaries = loaded_stage, [0]
    for wanted, length in tries:
        position = min(wanted, boundaries[-1])
        try:
            send(stage, "r", position, length)
        except RewindError as error:
            position = error.reached
            assert position < wanted
            send(stage, "r", position, length)
        assert position in boundaries
        boundaries = [*boundaries[: boundaries.index(position) + 1], position + length]
        assert stage.kv_positions == boundaries[-1]
    last = send(stage, "r", boundaries[-1], 1)
    stage.release("r")
    for start, end in itertools.pairwise(boundaries):
        send(stage, "fresh", start, end - start)
    assert np.array_equal(send(stage, "fresh", boundaries[-1], 1), last)
    stage.release("fresh")


def send(stage: Stage, sequence_id: str, position: int, length: int, seed: int = 0) -> oracles.Logits:
    """Run a frame of the positions' own random hidden states; of other ones with another seed."""
    rows = mx.random.normal((128, 64), key=mx.random.key(seed))[position : position + length]
    kind = FrameKind.DECODE if length == 1 else FrameKind.PREFILL
    return np.array(stage.run(Frame(sequence_id, position, rows, kind)).hidden_states)


def release(stage: Stage, *sequence_ids: str) -> None:
    for sequence_id in sequence_ids:
        stage.release(sequence_id)

"""Quantizing while loading: the same arrays as of the whole stack at once, wherever it is cut or split, and reused."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_moe
from bench.synthetic import TINY_DEEPSEEK, write_checkpoint
from cluster.cost_reader import read_costs
from mlx_moe import families
from mlx_moe.checkpoint import library, loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.held import Arrays, Held
from mlx_moe.checkpoint.parameter import Parameter, linear
from mlx_moe.checkpoint.recipe import AS_STORED, Recipe, uniform
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.config import QuantizationConfig
from mlx_moe.errors import CheckpointError, InvalidRequestError
from mlx_moe.pipeline.shard import ShardSpec
from mlx_moe.summary import model_parameters
from tests.checkpoints import write_tensors

RECIPES = {
    "4 bits": uniform(4),
    "8 bits in groups of 32": uniform(8, group_size=32),
    "3 bits, experts only": Recipe(QuantizationConfig(64, 3)),
    "mxfp4": uniform(4, "mxfp4"),
    "nvfp4": uniform(4, "nvfp4"),
    "mxfp8": uniform(8, "mxfp8"),
}


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkpoint]:
    """Yield a checkpoint in float32."""
    directory = tmp_path_factory.mktemp("floats")
    write_checkpoint(directory, TINY_DEEPSEEK | {"num_hidden_layers": 2}, bits=None)
    with Checkpoint.open(directory) as checkpoint:
        yield checkpoint


def load(
    checkpoint: Checkpoint,
    parameters: list[Parameter],
    recipe: Recipe = AS_STORED,
    held: Held | None = None,
    dtype: mx.Dtype = mx.float32,
) -> tuple[dict[str, Arrays], int]:
    """Return the arrays of parameters by name, and the bytes that were read; the bytes kept are what was foretold."""
    held = {} if held is None else held
    counts = [(0, 0)]
    stored = find(checkpoint, parameters, recipe)
    loaded = loader.load(checkpoint, stored, dtype, lambda done, total: counts.append((done, total)), held)
    assert loaded.nbytes == sum(s.memory_bytes(dtype.size) for s in stored)
    assert held.keys() == {s.origin for s in stored}
    assert counts[-1][0] == counts[-1][1]
    return {s.parameter.name: held[s.origin] for s in stored}, counts[-1][0]


def equal(one: Arrays, other: Arrays) -> bool:
    return len(one) == len(other) and all(mx.array_equal(a, b).item() for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("name", RECIPES)
def test_it_gives_the_bits_of_quantizing_the_loaded_stack(
    name: str, dtype: mx.Dtype, floats: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_moe.checkpoint.stored_parameter.CUT_NUMBERS", 10_000)  # cuts amid experts
    recipe, parameters = RECIPES[name], model_parameters(families.config_of(floats))
    plain, _ = load(floats, parameters, dtype=dtype)
    quantized, _ = load(floats, parameters, recipe, dtype=dtype)
    n_quantized = 0
    for parameter in parameters:
        if (q := recipe.of(parameter)) is None:
            assert equal(quantized[parameter.name], plain[parameter.name])
        else:
            (whole,) = plain[parameter.name]
            wanted = mx.quantize(whole, group_size=q.group_size, bits=q.bits, mode=q.mode)
            assert equal(quantized[parameter.name], tuple(wanted))
            n_quantized += 1
    assert n_quantized == (3 if recipe.others is None else 23)
    assert len(quantized["model.layers.1.mlp.gate"]) == 1


def test_experts_are_the_same_however_they_are_split(floats: Checkpoint) -> None:
    config = families.config_of(floats)
    whole, _ = load(floats, model_parameters(config), uniform(4))
    for owned in ((0,), (3, 5, 11), tuple(range(8, 16))):
        part, _ = load(floats, ShardSpec(range(1, 2), {1: owned}).parameters(config), uniform(4))
        for name, arrays in part.items():
            rows = mx.array(owned)
            wanted = tuple(a[rows] for a in whole[name]) if ".experts." in name else whole[name]
            assert equal(arrays, wanted)


def test_only_what_is_missing_is_read_and_quantized_for_another_split(floats: Checkpoint) -> None:
    config = families.config_of(floats)
    before, after = (ShardSpec(range(1, 2), {1: owned}).parameters(config) for owned in ((0, 2, 4), (4, 5, 0)))
    fresh, _ = load(floats, after, uniform(4))
    held: Held = {}
    load(floats, before, uniform(4), held)
    again, read_bytes = load(floats, after, uniform(4), held)
    assert all(equal(again[name], fresh[name]) for name in fresh)
    stacks = [s for s in find(floats, after) if s.parameter.routed]
    assert read_bytes == sum(s.nbytes for s in stacks) // 3


@pytest.mark.parametrize("then", [AS_STORED, uniform(8)])
def test_arrays_of_another_quantization_are_not_reused(then: Recipe, floats: Checkpoint) -> None:
    parameters = ShardSpec(range(1, 2), {1: (0, 1)}).parameters(families.config_of(floats))
    fresh, _ = load(floats, parameters, then)
    held: Held = {}
    load(floats, parameters, uniform(4), held)
    again, _ = load(floats, parameters, then, held)
    assert all(equal(again[name], fresh[name]) for name in fresh)


def test_matrices_of_more_bits_are_quantized_anew_and_others_stay() -> None:
    with Checkpoint.open(library.locate(library.DEMO)) as demo:  # 8 bits in groups of 32
        parameters = [p for p in model_parameters(families.config_of(demo)) if p.name.endswith("experts.up_proj")]
        stored, _ = load(demo, parameters)
        for name, arrays in load(demo, parameters, uniform(8))[0].items():
            assert equal(arrays, stored[name])
        for name, arrays in load(demo, parameters, uniform(4))[0].items():
            unpacked = mx.dequantize(*stored[name], group_size=32, bits=8)
            assert equal(arrays, tuple(mx.quantize(unpacked, group_size=64, bits=4)))


def test_the_peak_is_what_is_kept_and_one_stack(floats: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_moe.checkpoint.stored_parameter.CUT_NUMBERS", 1 << 15)
    parameters = ShardSpec(range(2)).parameters(families.config_of(floats))
    gc.collect()
    mx.reset_peak_memory()
    before_bytes = mx.get_active_memory()
    arrays, _ = load(floats, parameters, uniform(4))
    kept_bytes = [sum(a.nbytes for a in kept) for kept in arrays.values()]
    cut_bytes = 4 << 15
    assert mx.get_peak_memory() - before_bytes <= sum(kept_bytes) + max(kept_bytes) + 12 * cut_bytes


def test_numbers_that_cannot_be_quantized_are_refused_with_their_row(tmp_path: Path) -> None:
    numbers = np.ones((9, 64), np.float32)
    numbers[5, 3] = np.inf
    write_tensors(tmp_path, {"a.weight": ("F32", numbers)})
    with Checkpoint.open(tmp_path) as checkpoint:
        assert load(checkpoint, [linear("a", 9, 64)])
        with pytest.raises(CheckpointError, match=r"tensor a\.weight has NaN or infinity in row 5 \(F32\)"):
            load(checkpoint, [linear("a", 9, 64)], uniform(4))


def test_more_bits_than_are_stored_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, TINY_DEEPSEEK | {"num_hidden_layers": 2}, bits=4)
    told = r"is quantized already \(4 bits in groups of 64\): more bits would not bring back"
    with pytest.raises(InvalidRequestError, match=told):
        mlx_moe.load(tmp_path, recipe=uniform(8))
    with pytest.raises(InvalidRequestError, match=told):
        read_costs(str(tmp_path), float_bytes=2, bits=6)
    assert read_costs(str(tmp_path), float_bytes=2, bits=3) != read_costs(str(tmp_path), float_bytes=2, bits=4)

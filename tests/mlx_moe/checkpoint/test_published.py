"""Published originals that are not plain floats: whole small models, held to their copies that torch dequantized."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import mlx_moe
from cluster.cost_reader import CostReader
from mlx_moe.checkpoint.recipe import AS_STORED, Recipe, uniform
from mlx_moe.config import QuantizationConfig
from mlx_moe.pipeline.shard_spec import ShardSpec
from tests import checkpoints, oracles
from tests.checkpoints import Shape
from tests.conversions import add_part, converted
from tests.engine import load_engine
from tests.oracles import TOLERANCE, relative_difference

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.oracle

Stored = tuple[dict[str, "torch.Tensor"], "torch.Tensor"]
"""The tensors of a matrix, by what is appended to its name, and its numbers in float32."""

PROMPT = oracles.random_ids(48, 256)


def in_fp8(matrix: torch.Tensor, block: tuple[int, int]) -> Stored:
    """Quantize a matrix as DeepSeek does: the largest number of each block becomes the largest of E4M3."""
    import torch

    by_block = [
        [cell.abs().amax() / torch.finfo(torch.float8_e4m3fn).max for cell in row.split(block[1], 1)]
        for row in matrix.split(block[0], 0)
    ]
    scales = torch.tensor(by_block, dtype=torch.float32)
    by_row = scales.repeat_interleave(block[0], 0).repeat_interleave(block[1], 1)
    by_row = by_row[: matrix.shape[0], : matrix.shape[1]]
    numbers = (matrix / by_row).to(torch.float8_e4m3fn)
    return {"": numbers, "_scale_inv": scales}, numbers.to(torch.float32) * by_row


def in_int4(matrix: torch.Tensor, group: int) -> Stored:
    """Quantize a matrix as compressed-tensors does: symmetric, packed, low nibbles first."""
    import torch

    groups = matrix.unflatten(-1, (-1, group))
    scales = (groups.abs().amax(-1, keepdim=True) / 7.5).to(torch.bfloat16)
    values = (groups / scales.float()).round().clamp(-8, 7)
    nibbles = (values.flatten(-2).to(torch.int64) + 8).unflatten(-1, (-1, 8))
    words = (nibbles << (4 * torch.arange(8))).sum(-1).to(torch.int32)
    shape = torch.tensor(matrix.shape, dtype=torch.int32)
    numbers = (values * scales.float()).flatten(-2)
    return {"_packed": words, "_scale": scales.squeeze(-1), "_shape": shape}, numbers


def published(
    directory: Path, store: Callable[[torch.Tensor], Stored], chosen: str, section: dict[str, Any]
) -> tuple[Path, Path]:
    """Write a DeepSeek model whose matrices with `chosen` in their names are stored so, and its dequantized copy."""
    from safetensors.torch import load_file, save_file

    source = checkpoints.saved(Shape("deepseek_v3"), hub_dialect=True)
    plain = shutil.copytree(source, directory / "plain")
    packed = shutil.copytree(source, directory / "packed")
    tensors = load_file(source / "model.safetensors")
    stored = dict(tensors)
    for name in list(tensors):
        if name.endswith(".weight") and chosen in name:
            parts, tensors[name] = store(stored.pop(name))
            stored |= {name + end: part.contiguous() for end, part in parts.items()}
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    save_file(stored, packed / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps(config | {"quantization_config": section}))
    return packed, plain


FORMS: dict[str, tuple[Callable[[torch.Tensor], Stored], str, dict[str, Any]]] = {
    "FP8 in blocks of 128 x 128": (lambda m: in_fp8(m, (128, 128)), "_proj", {"weight_block_size": [128, 128]}),
    "FP8 in blocks of 48 x 40": (lambda m: in_fp8(m, (48, 40)), "_proj", {"weight_block_size": [48, 40]}),
    "int4 in groups of 32 (compressed-tensors)": (lambda m: in_int4(m, 32), ".experts.", {"format": "pack-quantized"}),
    "int4 in groups of 16 (compressed-tensors)": (lambda m: in_int4(m, 16), ".experts.", {"format": "pack-quantized"}),
}


Models = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Return where a model in a form and its dequantized copy lie, made when first asked for."""

    @cache
    def made(form: str) -> tuple[Path, Path]:
        return published(tmp_path_factory.mktemp("published"), *FORMS[form])

    return made


def answer(directory: Path, recipe: Recipe = AS_STORED) -> list[int]:
    options = {"max_tokens": 16, "ignore_eos": True, "temperature": 0.0}
    return [token.id for token in mlx_moe.generate(mlx_moe.load(directory, recipe=recipe), PROMPT, **options)]


@pytest.mark.parametrize("form", FORMS)
def test_it_computes_what_its_dequantized_copy_does(form: str, models: Models) -> None:
    packed, plain = models(form)
    got, wanted = (load_engine(directory).logits(PROMPT) for directory in (packed, plain))
    if form.startswith("FP8"):
        np.testing.assert_array_equal(got, wanted)
    assert relative_difference(got, wanted) <= TOLERANCE
    assert relative_difference(got, oracles.logits(oracles.transformers_model(plain), PROMPT)) <= TOLERANCE
    assert answer(packed) == answer(plain)
    assert mlx_moe.describe(packed).form == form


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("form", FORMS)
def test_it_takes_the_memory_that_is_planned_for_it(form: str, bits: int | None, models: Models) -> None:
    packed, _ = models(form)
    loaded = mlx_moe.load(packed, recipe=AS_STORED if bits is None else uniform(bits))
    costs = CostReader(str(packed), float_bytes=4).at(bits)
    assert costs.weights_bytes == loaded.placement[0].weights_bytes


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith("FP8")])
def test_quantized_while_loading_it_computes_what_a_conversion_of_its_copy_does(
    form: str, models: Models, tmp_path: Path
) -> None:
    packed, plain = models(form)
    converted = checkpoints.convert_with_mlx_lm(plain, tmp_path / "mlx", bits=4, group_size=64)
    got = load_engine(packed, recipe=uniform(4)).logits(PROMPT)
    assert relative_difference(got, load_engine(converted).logits(PROMPT)) <= TOLERANCE


@pytest.mark.parametrize("form", [form for form in FORMS if form.startswith("FP8")])
def test_a_conversion_of_it_is_a_conversion_of_its_copy(form: str, models: Models, tmp_path: Path) -> None:
    got, wanted = (convert(directory, tmp_path / directory.name) for directory in models(form))
    assert relative_difference(got, wanted) <= TOLERANCE


def test_a_conversion_of_packed_int4_keeps_its_words(models: Models, tmp_path: Path) -> None:
    packed, plain = models("int4 in groups of 32 (compressed-tensors)")
    got, wanted = convert(packed, tmp_path / "converted"), load_engine(plain).logits(PROMPT)
    assert relative_difference(got, wanted) <= TOLERANCE


def convert(source: Path, directory: Path) -> oracles.Logits:
    """Return the logits of a conversion to 4 bits in groups of 32, of the experts alone. Made in parts, it is equal."""
    recipe, parts = Recipe(QuantizationConfig(32, 4)), directory.with_name(f"parts of {directory.name}")
    n_layers = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    for layers in (range(1), range(1, n_layers)):
        add_part(source, parts, ShardSpec(layers), recipe)
    for path in converted(source, directory, recipe).glob("*.safetensors"):
        assert (parts / path.name).read_bytes() == path.read_bytes()
    return load_engine(directory).logits(PROMPT)

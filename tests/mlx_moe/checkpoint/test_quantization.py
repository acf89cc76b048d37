"""Quantization is read from the headers: sections of config.json that say otherwise change nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import mlx_moe
from cluster.cost_reader import read_costs
from mlx_moe.config import QuantizationConfig
from mlx_moe.errors import CheckpointError, UnsupportedModelError
from tests import checkpoints
from tests.checkpoints import Shape

if TYPE_CHECKING:
    import torch

pytestmark = pytest.mark.oracle

PROMPT = list(range(3, 40))
LEFTOVERS: list[dict[str, Any]] = [
    {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}},
    {"quantization_config": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}}},
    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
    {"quantization_config": {"quant_method": "awq", "bits": 4}},
    {"quantization_config": None},
    {"quantization": {"group_size": 64, "bits": 4}},
]


@pytest.fixture(scope="module")
def plain() -> Path:
    return checkpoints.saved(Shape("deepseek_v3"), dtype="bfloat16")


@pytest.fixture(scope="module")
def packed(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def predicate(path: str, _module: object) -> bool | dict[str, Any]:
        return {"group_size": 32, "bits": 6} if path.endswith("down_proj") else "lm_head" not in path

    directory = tmp_path_factory.mktemp("quantization") / "packed"
    return checkpoints.convert_with_mlx_lm(plain, directory, bits=4, group_size=64, predicate=predicate)


def with_config(directory: Path, target: Path, *without: str, **changes: Any) -> Path:
    """Return a copy of a checkpoint whose config.json says something else."""
    target.mkdir()
    for path in directory.iterdir():
        if path.name != "config.json":
            shutil.copy(path, target)
    config = json.loads((directory / "config.json").read_text()) | changes
    (target / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in without}))
    return target


@contextmanager
def tensors_of(directory: Path) -> Iterator[dict[str, torch.Tensor]]:
    """Let the tensors of such a copy be changed."""
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    tensors = load_file(path)
    yield tensors
    save_file(tensors, path, metadata={"format": "pt"})


def answer(directory: Path) -> list[int]:
    options = {"max_tokens": 8, "ignore_eos": True, "temperature": 0.0}
    return [token.id for token in mlx_moe.generate(mlx_moe.load(directory), PROMPT, **options)]


@pytest.mark.parametrize("section", LEFTOVERS, ids=lambda section: json.dumps(section)[:60])
def test_a_section_that_a_conversion_left_behind_changes_nothing(
    section: dict[str, Any], plain: Path, tmp_path: Path
) -> None:
    directory = with_config(plain, tmp_path / "model", **section)
    assert answer(directory) == answer(plain)
    assert mlx_moe.describe(directory).quantization is None
    assert read_costs(str(directory), float_bytes=2).bits == read_costs(str(plain), float_bytes=2).bits


@pytest.mark.parametrize("section", [None, {"group_size": 32, "bits": 8}, {"group_size": 64, "bits": 4, "lm_head": {}}])
def test_a_section_that_is_missing_or_contradicts_the_headers_changes_nothing(
    section: dict[str, Any] | None, packed: Path, tmp_path: Path
) -> None:
    changes = {} if section is None else {"quantization": section, "quantization_config": section}
    without = ("quantization", "quantization_config") if section is None else ()
    directory = with_config(packed, tmp_path / "model", *without, **changes)
    assert answer(directory) == answer(packed)
    assert mlx_moe.describe(directory).quantization == QuantizationConfig(64, 4)


FOREIGN = {
    "compressed-tensors": ("weight_scale", "int8"),
    "compressed-tensors in FP8": ("weight_scale", "float8_e4m3fn"),
    "bitsandbytes": ("weight.absmax", "uint8"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("has_section", [True, False])
def test_another_librarys_quantization_is_named_with_its_cure(
    name: str, has_section: bool, plain: Path, tmp_path: Path
) -> None:
    import torch

    beside, dtype = FOREIGN[name]
    section = {"quantization_config": {"quant_method": "fp8"}} if has_section else {}
    directory = with_config(plain, tmp_path / "model", **section)
    tensor = "model.layers.0.mlp.gate_proj.weight"
    with tensors_of(directory) as tensors:
        tensors[tensor] = tensors[tensor].to(getattr(torch, dtype))
        tensors[f"model.layers.0.mlp.gate_proj.{beside}"] = torch.ones(1)
    for describe in (mlx_moe.describe, mlx_moe.load, lambda model: read_costs(str(model), float_bytes=2)):
        with pytest.raises(
            UnsupportedModelError, match=f"{tensor} has dtype .*{name.split()[0]} quantization"
        ) as refused:
            describe(directory)
        assert "take the original model, which is quantized while it is loaded: moe-cluster up" in str(refused.value)


def test_packed_words_in_place_of_a_matrix_are_no_incomplete_download(plain: Path, tmp_path: Path) -> None:
    directory = with_config(plain, tmp_path / "model")
    with tensors_of(directory) as tensors:
        tensors["lm_head.qweight"] = tensors.pop("lm_head.weight").int()
    with pytest.raises(UnsupportedModelError, match=r"tensor lm_head\.weight: GPTQ or AWQ quantization"):
        mlx_moe.describe(directory)


@pytest.mark.parametrize("part", ["scales", "biases", "weight"])
def test_a_part_of_a_packed_matrix_that_is_missing_is_told_as_missing(packed: Path, tmp_path: Path, part: str) -> None:
    directory = with_config(packed, tmp_path / "model")
    with tensors_of(directory) as tensors:
        del tensors[f"model.embed_tokens.{part}"]
    with pytest.raises(CheckpointError, match=rf"no tensor model\.embed_tokens\.{part}\b"):
        mlx_moe.describe(directory)


def test_words_that_no_number_of_bits_makes_are_refused_with_the_numbers(packed: Path, tmp_path: Path) -> None:
    directory = with_config(packed, tmp_path / "model", hidden_size=160)
    with pytest.raises(CheckpointError, match="16 words and 2 scales for a row of 160 inputs"):
        mlx_moe.describe(directory)


@pytest.mark.parametrize("dtype", ["int8", "int32"])
def test_scales_that_are_no_floats_are_refused(packed: Path, tmp_path: Path, dtype: str) -> None:
    import torch

    directory, scales = with_config(packed, tmp_path / "model"), "model.embed_tokens.scales"
    with tensors_of(directory) as tensors:
        tensors[scales] = tensors[scales].to(getattr(torch, dtype))
    with pytest.raises(UnsupportedModelError, match=r"embed_tokens\.weight is quantized to 4 bits .*\(I(8|32)\)"):
        mlx_moe.describe(directory)

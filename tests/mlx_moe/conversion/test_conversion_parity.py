"""Conversion against mlx-lm: the same tensors as its own conversions, and the same answers of what it loads."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.held import Held
from mlx_moe.checkpoint.recipe import Recipe, mixed, uniform
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.families import read_config
from mlx_moe.summary import model_parameters
from tests import checkpoints, oracles
from tests.checkpoints import Shape
from tests.conversions import converted, tensor_digests
from tests.engine import load_engine
from tests.oracles import TOLERANCE, relative_difference

pytestmark = pytest.mark.oracle

FAMILIES = ["deepseek_v3", "qwen3_moe"]

PROMPT = oracles.random_ids(48, 256)
N_ANSWER = 24


def shape(family: str, **changes: Any) -> Shape:
    """Return a shape whose embed_q is wide enough for groups of 64."""
    return Shape(family, ({"qk_nope_head_dim": 64} if family == "deepseek_v3" else {}) | changes)


def original(family: str, dtype: str = "float32") -> Path:
    """Return a model as the hub has it: a tensor an expert, kv_b_proj whole."""
    return checkpoints.saved(shape(family), dtype=dtype, hub_dialect=True)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return where the conversion of an original to 4 bits lies, made when first asked for."""

    @cache
    def made(family: str) -> Path:
        return converted(original(family), tmp_path_factory.mktemp("reference") / "model")

    return made


def tensors(directory: Path) -> dict[str, mx.array]:
    stored: dict[str, mx.array] = {}
    for path in directory.glob("*.safetensors"):
        stored |= mx.load(str(path))
    return stored


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "bits", "mode", "group_size"),
    [("float32", 4, "affine", 64), ("bfloat16", 8, "affine", 32), ("bfloat16", 4, "mxfp4", 32)],
)
def test_tensors_are_those_of_mlx_lms_conversion(
    family: str, dtype: str, bits: int, mode: str, group_size: int, tmp_path: Path
) -> None:
    source = original(family, dtype)
    how = {"bits": bits, "mode": mode, "group_size": group_size}
    theirs = checkpoints.convert_with_mlx_lm(
        source,
        tmp_path / "theirs",
        dtype=dtype,
        predicate=lambda path, _module: not path.endswith("mlp.gate"),  # it would give qwen3_moe's router 8 bits
        **how,
    )
    ours = converted(source, tmp_path / "ours", uniform(bits, mode, group_size))
    wanted, found = tensors(theirs), tensors(ours)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        if "mlp.gate." in name:  # transformers saves it in float32; mlx-lm narrows the weight, we keep it
            assert mx.array_equal(found[name].astype(array.dtype), array)
        else:
            assert found[name].dtype == array.dtype, name
            assert mx.array_equal(found[name], array), name
    keys = ("group_size", "bits", "mode")
    sections = [json.loads((path / "config.json").read_text())["quantization"] for path in (ours, theirs)]
    assert [sections[0][key] for key in keys] == [sections[1][key] for key in keys] == [group_size, bits, mode]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "recipe", [uniform(3), mixed(4), mixed(4, "mxfp4")], ids=["3 bit", "mixed", "mixed with mxfp4"]
)
def test_mlx_lm_answers_what_this_engine_answers(family: str, recipe: Recipe, tmp_path: Path) -> None:
    directory = converted(original(family), tmp_path / "model", recipe)
    engine = load_engine(directory)
    assert relative_difference(engine.logits(PROMPT), oracles.mlx_lm_logits(directory, PROMPT)) <= TOLERANCE
    assert engine.greedy(PROMPT, N_ANSWER) == oracles.mlx_lm_greedy(directory, PROMPT, N_ANSWER)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", ["fused", "many files", "transformers 5", "stacked"])
def test_every_layout_of_a_model_becomes_the_same_tensors(
    family: str, layout: str, reference: Any, tmp_path: Path
) -> None:
    source = {
        "fused": lambda: checkpoints.saved(shape(family), fused=True, hub_dialect=True),
        "many files": lambda: checkpoints.save(shape(family).model(), tmp_path / "source", shard_size="300KB"),
        "transformers 5": lambda: checkpoints.saved(shape(family)),
        "stacked": lambda: checkpoints.convert_with_mlx_lm(original(family), tmp_path / "source"),
    }[layout]()
    directory = converted(source, tmp_path / "model")
    assert tensor_digests(directory) == tensor_digests(reference(family))
    oracles.mlx_lm_logits(directory, PROMPT[:2])  # mlx-lm reads its config.json, whatever dialect the source has


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("hub_dialect", [False, True], ids=["transformers 5", "hub"])
def test_config_json_says_what_the_source_says(family: str, hub_dialect: bool, tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": 64}
    source = checkpoints.saved(shape(family, rope_parameters=rope), hub_dialect=hub_dialect)
    directory = converted(source, tmp_path / "model")
    before, after = (json.loads((path / "config.json").read_text()) for path in (source, directory))
    assert read_config(after) == read_config(before)
    assert {key: value for key, value in after.items() if key in before} == before


def test_an_older_conversion_with_a_quantized_kv_b_proj_becomes_one_of_today(tmp_path: Path) -> None:
    source = original("deepseek_v3")
    newer = checkpoints.convert_with_mlx_lm(source, tmp_path / "newer", bits=8, group_size=64)
    older = checkpoints.with_older_kv_b_proj(newer, source, tmp_path / "older")
    directory = converted(older, tmp_path / "model", uniform(4))
    difference = relative_difference(load_engine(directory).logits(PROMPT), oracles.mlx_lm_logits(directory, PROMPT))
    assert difference <= TOLERANCE
    assert "model.layers.1.self_attn.embed_q.scales" in tensor_digests(directory)


def test_leftovers_of_the_sources_quantization_do_not_stay_in_config_json(tmp_path: Path) -> None:
    source = Path(shutil.copytree(original("qwen3_moe"), tmp_path / "source"))
    config = json.loads((source / "config.json").read_text())
    leftover = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": leftover}))
    section = json.loads((converted(source, tmp_path / "model") / "config.json").read_text())["quantization_config"]
    assert section == {"group_size": 64, "bits": 4, "mode": "affine"}


def test_an_mtp_layer_is_kept_under_its_names(tmp_path: Path) -> None:
    source = checkpoints.save_with_mtp(shape("deepseek_v3", num_hidden_layers=3), tmp_path / "source")
    directory = converted(source, tmp_path / "model", uniform(8))
    engine, quantized = load_engine(source), load_engine(directory)
    assert engine.mtp is not None
    assert quantized.mtp is not None
    names = tensor_digests(directory)
    assert {"model.layers.2.enorm.weight", "model.layers.2.eh_proj.scales"} <= names.keys()
    assert "model.layers.2.mlp.switch_mlp.up_proj.weight" in names
    without = converted(source, tmp_path / "without", uniform(8), keep_mtp=False)
    assert not any(name.startswith("model.layers.2.") for name in tensor_digests(without))
    assert oracles.mlx_lm_greedy(without, PROMPT, 8) == quantized.greedy(PROMPT, 8)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversion_computes_what_quantizing_at_load_computes(family: str, tmp_path: Path) -> None:
    plain = checkpoints.convert_with_mlx_lm(original(family), tmp_path / "plain")  # embed_q as it will be written
    directory = converted(plain, tmp_path / "model", mixed(4))
    with Checkpoint.open(plain) as source, Checkpoint.open(directory) as quantized:
        parameters = model_parameters(read_config(source.config))
        wanted, found = find(source, parameters, mixed(4)), find(quantized, parameters)
        at_load: Held = {}
        after: Held = {}
        loader.load(source, wanted, mx.float32, held=at_load)
        loader.load(quantized, found, mx.float32, held=after)
    for one, other in zip(wanted, found, strict=True):
        assert one.quantization == other.quantization
        for a, b in zip(at_load[one.origin], after[other.origin], strict=True):
            assert mx.array_equal(a, b), one.parameter.name

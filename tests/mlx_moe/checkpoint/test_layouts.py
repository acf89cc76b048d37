"""Layouts: the same numbers from every form in which a checkpoint may lie on disk, plain and quantized.

Quantized checkpoints are held to transformers with their dequantized weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.config import QuantizationConfig
from mlx_moe.families import read_config
from mlx_moe.summary import model_parameters
from tests import checkpoints, oracles
from tests.checkpoints import Shape
from tests.engine import load_engine
from tests.oracles import TOLERANCE, Answer, relative_difference

pytestmark = pytest.mark.oracle

FAMILIES = ["deepseek_v3", "qwen3_moe"]
YARN = {
    "deepseek_v3": {"mscale": 1.0, "mscale_all_dim": 0.8},
    "qwen3_moe": {},
}


def shape(family: str, **changes: Any) -> Shape:
    """Return a shape with yarn, which the two dialects of config.json write differently."""
    rope = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": 64}
    return Shape(family, {"rope_parameters": rope | YARN[family]} | changes)


def plain(family: str, **changes: Any) -> Shape:
    """Return a shape without yarn, which mlx-lm ignores in qwen3_moe, and with an embed_q for groups of 64."""
    return Shape(family, ({"qk_nope_head_dim": 64} if family == "deepseek_v3" else {}) | changes)


N_ANSWER = 32


def assert_parity(directory: Path, wanted: Answer) -> None:
    """Hold logits and greedy tokens to the oracle's."""
    engine = load_engine(directory)
    assert relative_difference(engine.logits(wanted.prompt + wanted.written), wanted.logits) <= TOLERANCE
    assert engine.greedy(wanted.prompt, N_ANSWER) == wanted.likeliest


def assert_parity_dequantized(directory: Path) -> None:
    """Hold logits and greedy tokens to those of transformers with the dequantized weights."""
    oracle = oracles.transformers_model(oracles.dequantize(directory, directory.with_name("dequantized")))
    engine = load_engine(directory)
    answer = oracles.clear_answer(oracle, lambda prompt: engine.greedy(prompt, N_ANSWER))
    assert answer.written == answer.likeliest
    assert relative_difference(engine.logits(answer.prompt + answer.written), answer.logits) <= TOLERANCE


@cache
def wanted(family: str, dtype: str) -> Answer:
    """Return what transformers answers for a family in a dtype, once for all layouts."""
    oracle = oracles.transformers_model(checkpoints.saved(shape(family), dtype=dtype))
    return oracles.clear_answer(oracle, lambda prompt: oracles.greedy(oracle, prompt, N_ANSWER))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("fused", "hub_dialect"), [(False, True), (True, False)], ids=["as on the hub", "fused"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_transformers_saves_in_16_bits(family: str, fused: bool, dtype: str, hub_dialect: bool) -> None:
    directory = checkpoints.saved(shape(family), fused=fused, dtype=dtype, hub_dialect=hub_dialect)
    assert_parity(directory, wanted(family, dtype))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fused", [False, True], ids=["per expert", "fused"])
def test_a_checkpoint_in_many_files(family: str, fused: bool, tmp_path: Path) -> None:
    directory = checkpoints.save(shape(family).model(), tmp_path, fused=fused, shard_size="300KB")
    assert len(list(directory.glob("*.safetensors"))) > 5
    assert_parity(directory, wanted(family, "float32"))


CONVERSIONS: dict[str, dict[str, Any]] = {
    "unquantized": {},
    "unquantized bf16": {"dtype": "bfloat16"},
    "4 bit": {"bits": 4, "group_size": 64},
    "4 bit in groups of 32": {"bits": 4, "group_size": 32},
    "8 bit": {"bits": 8, "group_size": 64},
    "8 bit in groups of 32, bf16": {"bits": 8, "group_size": 32, "dtype": "bfloat16"},
    "4 bit, f16": {"bits": 4, "group_size": 64, "dtype": "float16"},
    "3 bit": {"bits": 3, "group_size": 64},
    "mxfp4": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
    "nvfp4": {"bits": 4, "group_size": 16, "mode": "nvfp4"},
    "mxfp8": {"bits": 8, "group_size": 32, "mode": "mxfp8"},
    "mxfp4, bf16": {"bits": 4, "group_size": 32, "mode": "mxfp4", "dtype": "bfloat16"},
}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Return where a family's conversion lies, made when first asked for."""

    @cache
    def made(family: str, name: str) -> Path:
        directory = tmp_path_factory.mktemp("converted")
        return convert(plain(family), directory, **CONVERSIONS[name])

    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversions_of_mlx_lm(family: str, name: str, converted: Callable[[str, str], Path]) -> None:
    directory = converted(family, name)
    assert_parity_dequantized(directory)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["unquantized", "4 bit", "mxfp4"])
def test_conversions_in_float32_run_alike_in_mlx_lm(
    family: str, name: str, converted: Callable[[str, str], Path]
) -> None:
    directory = converted(family, name)
    ids = oracles.random_ids(96, 256)
    difference = relative_difference(load_engine(directory).logits(ids), oracles.mlx_lm_logits(directory, ids))
    assert difference <= TOLERANCE


def convert(model: Shape, tmp_path: Path, **options: Any) -> Path:
    return checkpoints.convert_with_mlx_lm(checkpoints.saved(model, hub_dialect=True), tmp_path / "mlx", **options)


def test_an_embed_q_too_narrow_for_a_group_stays_plain_beside_a_quantized_unembed_out(tmp_path: Path) -> None:
    directory = convert(Shape("deepseek_v3"), tmp_path, bits=4, group_size=64)
    with Checkpoint.open(directory) as checkpoint:
        assert "model.layers.1.self_attn.embed_q.scales" not in checkpoint
        assert "model.layers.1.self_attn.unembed_out.scales" in checkpoint
    assert_parity_dequantized(directory)


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_the_gate_of_qwen3_moe_is_8_bit_beside_4_bit_experts(mode: str, tmp_path: Path) -> None:
    directory = convert(plain("qwen3_moe"), tmp_path, bits=4, group_size=32, mode=mode)
    with Checkpoint.open(directory) as checkpoint:
        config = read_config(checkpoint.config)
        stored = {s.parameter.name: s for s in find(checkpoint, model_parameters(config))}
    assert stored["model.layers.2.mlp.experts.up_proj"].quantization == QuantizationConfig(32, 4, mode)
    assert stored["model.layers.2.mlp.gate"].quantization == QuantizationConfig(64, 8, "affine")


@pytest.mark.parametrize("family", FAMILIES)
def test_modules_with_quantizations_of_their_own(family: str, tmp_path: Path) -> None:
    def predicate(path: str, _module: object) -> bool | dict[str, Any]:
        if path.endswith("embed_tokens") or "layers.3.self_attn" in path:
            return False
        if path.endswith(("down_proj", "lm_head")):
            return {"group_size": 32, "bits": 6}
        return {"group_size": 64, "bits": 8} if "layers.1." in path else True

    directory = convert(plain(family), tmp_path, bits=4, group_size=64, predicate=predicate)
    assert_parity_dequantized(directory)


def test_quantized_tied_embeddings_are_the_lm_head(tmp_path: Path) -> None:
    directory = convert(plain("qwen3_moe", tie_word_embeddings=True), tmp_path, bits=4, group_size=64)
    assert_parity_dequantized(directory)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group_size", [32, 64])
def test_an_older_conversion_with_a_quantized_kv_b_proj(bits: int, group_size: int, tmp_path: Path) -> None:
    source = checkpoints.saved(Shape("deepseek_v3"), hub_dialect=True)
    newer = checkpoints.convert_with_mlx_lm(source, tmp_path / "newer", bits=bits, group_size=group_size)
    older = checkpoints.with_older_kv_b_proj(newer, source, tmp_path / "older")
    assert_parity_dequantized(older)

"""Rope in every spelling of config.json: frequencies and temperature as in transformers, and what context follows."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import torch
import transformers
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3RotaryEmbedding, yarn_apply_mscale
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeRotaryEmbedding

from mlx_moe import families, rope_config
from mlx_moe.errors import CheckpointError, InvalidRequestError, UnsupportedModelError
from mlx_moe.layers.rope import Rope
from mlx_moe.rope_config import RopeConfig, yarn_mscale
from tests import checkpoints, oracles
from tests.checkpoints import Shape
from tests.engine import load_engine
from tests.families import deepseek_v3, qwen3_moe
from tests.families import read as family_data
from tests.oracles import TOLERANCE, relative_difference

pytestmark = pytest.mark.oracle

FAMILIES = {
    "deepseek_v3": (deepseek_v3.CONFIG, DeepseekV3RotaryEmbedding),
    "qwen3_moe": (qwen3_moe.CONFIG, Qwen3MoeRotaryEmbedding),
}

KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 128},
    "yarn of all context": {"factor": 4},
    "yarn, mscale": {"factor": 40, "original_max_position_embeddings": 64, "mscale": 1.0, "mscale_all_dim": 0.8},
    "yarn, half mscale": {"factor": 40, "original_max_position_embeddings": 64, "mscale": 0.707},
    "yarn, betas": {"factor": 32.0, "original_max_position_embeddings": 64, "beta_fast": 1, "beta_slow": 1.0},
    "yarn, no betas": {"factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 0, "beta_slow": None},
    "yarn, attention factor": {"factor": 4.0, "original_max_position_embeddings": 128, "attention_factor": 1.25},
    "yarn, not truncated": {"factor": 4.0, "original_max_position_embeddings": 128, "truncate": False},
    "yarn, whole numbers as floats": {"factor": 4.0, "original_max_position_embeddings": 128.0},
    "llama3": {
        "factor": 8.0,
        "original_max_position_embeddings": 128,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "llama3, equal factors": {
        "factor": 16.0,
        "original_max_position_embeddings": 128,
        "low_freq_factor": 1.0,
        "high_freq_factor": 1.0,
    },
    "linear, mscale": {"factor": 2.0, "mscale_all_dim": 1.0},
}
DIALECTS = ["scaling", "parameters", "both", "empty scaling", "null scaling"]
TYPE_KEYS = ["rope_type", "type"]
THETAS = ["inside", "outside", "inside and outside", "nowhere"]


def spelled(kind: str, dialect: str, type_key: str, theta: str) -> dict[str, Any]:
    """Return the keys of config.json that say so."""
    rope = {type_key: kind.partition(",")[0].split()[0], **KINDS[kind]}
    fields: dict[str, Any] = {}
    if "inside" in theta:
        rope["rope_theta"] = 50_000.0
    if "outside" in theta:
        fields["rope_theta"] = 70_000
    if dialect == "scaling":
        return fields | {"rope_scaling": rope}
    if dialect == "both":
        return fields | {"rope_scaling": rope, "rope_parameters": {"rope_type": "default", "rope_theta": 30_000.0}}
    nothing = {"empty scaling": {"rope_scaling": {}}, "null scaling": {"rope_scaling": None}}
    return fields | {"rope_parameters": rope} | nothing.get(dialect, {})


def by_transformers(family: str, fields: dict[str, Any]) -> tuple[np.ndarray, float, float]:
    """Return transformers' frequencies, what it multiplies cos and sin with, and deepseek_v3's scale of scores."""
    base, rotary = FAMILIES[family]
    config = transformers.AutoConfig.for_model(family, **json.loads(json.dumps(base | fields)))
    embedding = rotary(config)
    temperature = yarn_apply_mscale(config.rope_parameters, 1.0)
    return embedding.inv_freq.numpy(), float(embedding.attention_scaling), temperature


def read(family: str, fields: dict[str, Any]) -> RopeConfig:
    return families.read_config({"model_type": family, **FAMILIES[family][0], **fields}).rope


def frequencies(rope: RopeConfig) -> np.ndarray:
    """Return the angle that one position turns each pair by."""
    half = rope.dims // 2
    x = [1.0, 0.0] * half if rope.interleaved else [1.0] * half + [0.0] * half
    turned = np.array(Rope(replace(rope, attention_factor=1.0))(mx.array([[x]]), 1))[0, 0]
    pairs = turned.reshape(half, 2).T if rope.interleaved else turned.reshape(2, half)
    return np.arctan2(pairs[1], pairs[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_spelling_has_the_frequencies_and_temperature_of_transformers(family: str, kind: str) -> None:
    for dialect, type_key, theta in itertools.product(DIALECTS, TYPE_KEYS, THETAS):
        fields = spelled(kind, dialect, type_key, theta)
        inv_freq, attention_factor, temperature = by_transformers(family, fields)
        rope = read(family, fields)
        np.testing.assert_allclose(frequencies(rope), inv_freq, rtol=2e-6, err_msg=str(fields))
        assert rope.attention_factor == pytest.approx(attention_factor, rel=1e-9), fields
        if family == "deepseek_v3":
            assert yarn_mscale(rope.factor, rope.mscale_all_dim) ** 2 == pytest.approx(temperature, rel=1e-9), fields


@pytest.mark.parametrize("family", FAMILIES)
def test_an_original_context_beside_the_section_goes_before_one_inside(family: str) -> None:
    for inside in ({}, {"original_max_position_embeddings": 32}):
        rope = {"rope_type": "yarn", "factor": 4.0, **inside}
        fields = {"original_max_position_embeddings": 128, "rope_parameters": rope}
        inv_freq, _, _ = by_transformers(family, fields)
        np.testing.assert_allclose(frequencies(read(family, fields)), inv_freq, rtol=2e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_that_mean_nothing_change_nothing(family: str) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    odd = rope | {
        "finetuned": True,
        "extra": {"factor": 2.0},
        "mscale": None,
        "mscale_all_dim": None,
        "attention_factor": None,
        "type": "linear",
    }
    assert read(family, {"rope_scaling": odd}) == read(family, {"rope_scaling": rope})
    assert read(family, {"rope_scaling": rope, "partial_rotary_factor": 1.0}) == read(family, {"rope_scaling": rope})
    assert read(family, {"partial_rotary_factor": 0.5}) == read(family, {})  # plain rope of these families ignores it


def test_a_theta_that_is_lost_between_the_sections_is_told() -> None:
    values = {"rope_parameters": {"rope_theta": 1e6}, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    assert 'write "rope_theta": 1000000.0 into rope_scaling' in rope_config.note(values)
    assert rope_config.note(values | {"rope_theta": 1e6}) == ""
    assert rope_config.note(values | {"rope_scaling": None}) == ""


def test_a_factor_left_out_is_the_ratio_of_the_contexts() -> None:
    rope = {"rope_type": "yarn", "original_max_position_embeddings": 128}
    assert read("qwen3_moe", {"rope_scaling": rope}).factor == 4.0


@pytest.mark.parametrize("key", ["factor", "beta_fast", "beta_slow"])
def test_ratios_that_leave_the_range_of_floats_are_refused(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"{key} must be a number above 1e-06"):
        read("qwen3_moe", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, key: 5e-324}})


@pytest.mark.parametrize(
    ("rope", "message"),
    [
        (
            {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
            "'longrope' is not supported",
        ),
        ({"rope_type": "yarn", "factor": 4.0, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"full_attention": {"rope_theta": 1e6}}, r"by layer type \(full_attention\)"),
        (
            {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
            r"by layer type \(full_attention, sliding_attention\)",
        ),
    ],
)
def test_what_would_be_rotated_wrong_is_refused(rope: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read("qwen3_moe", {"rope_parameters": rope})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["yarn", "llama3", "linear"])
def test_numbers_past_the_original_context_are_those_of_transformers(family: str, kind: str, tmp_path: Path) -> None:
    directory = checkpoints.save(Shape(family).model(), tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    config["rope_scaling"] = {"type": kind, "rope_theta": 10_000.0, **KINDS[kind]}
    (directory / "config.json").write_text(json.dumps(config))
    ids = oracles.random_ids(180, 256)
    with torch.no_grad():
        wanted = oracles.transformers_model(directory)(torch.tensor([ids])).logits[0].numpy()
    assert relative_difference(load_engine(directory).logits(ids), wanted) < TOLERANCE


@pytest.mark.parametrize(
    ("longest", "rope", "context"),
    [
        (512, None, (512, 512)),
        (160, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, (512, 512)),
        (512, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, (512, 512)),
        (1024, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, (1024, 1024)),
        (128, {"rope_type": "yarn", "factor": 4.0}, (512, 512)),
        (512, {"rope_type": "linear", "factor": 2.0}, (512, 1024)),
        (512, {"rope_type": "linear", "factor": 8, "original_max_position_embeddings": 128}, (1024, 1024)),
        (512, {"rope_type": "dynamic", "factor": 2.0}, (512, 512)),
        (512, {"rope_type": "llama3", **KINDS["llama3"]}, (512, 1024)),
    ],
)
def test_context_is_what_the_settings_allow(
    longest: int, rope: dict[str, Any] | None, context: tuple[int, int]
) -> None:
    values = {"model_type": "qwen3_moe", **qwen3_moe.CONFIG}
    values |= {"max_position_embeddings": longest, "rope_scaling": rope}
    found = families.read_config(values).context
    assert (found.tokens, found.longest) == context


@pytest.mark.parametrize("family", ["mistral", "mixtral", "phimoe"])
def test_no_stretching_goes_beyond_a_sliding_window_of_all_layers(family: str) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": 64}
    values = {"model_type": family, **family_data(family).config, "rope_parameters": rope, "sliding_window": 96}
    context = families.read_config(values).context
    assert (context.tokens, context.longest) == (96, 96)
    with pytest.raises(InvalidRequestError, match="no more than a sliding window of 96 tokens"):
        context.require(97)


@pytest.mark.parametrize("rope", [None, {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512}])
def test_a_longer_context_is_refused_with_what_allows_it(rope: dict[str, Any] | None) -> None:
    values = {"model_type": "qwen3_moe", **qwen3_moe.CONFIG, "rope_scaling": rope, "rope_theta": 1e6}
    context = families.read_config(values).context
    with pytest.raises(InvalidRequestError, match=f"at most {context.longest:,}") as refused:
        context.require(1500)
    advised = json.loads(str(refused.value).partition('"rope_scaling": ')[2].partition("}")[0] + "}")
    assert families.read_config(values | {"rope_scaling": advised}).context.require(1500) == 1500
    assert advised["rope_theta"] == 1e6
    assert math.isclose(advised["factor"], 3.0)

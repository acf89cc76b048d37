"""Multimodal: the text part of models that read images too, by all names that checkpoints give it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from mlx_moe import families
from mlx_moe.checkpoint import json_file
from tests import checkpoints, oracles
from tests.checkpoints import Model, Shape
from tests.engine import load_engine
from tests.families import qwen3_5_moe

pytestmark = pytest.mark.oracle

IDS = oracles.random_ids(100, 256)
VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 128}
VL_TEXT = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "max_position_embeddings": 512,
}


@pytest.fixture(scope="module")
def oracle() -> Model:
    return whole_model("qwen3_5_moe", VISION, qwen3_5_moe.CONFIG["text_config"])


def whole_model(family: str, vision: Mapping[str, Any], text: Mapping[str, Any]) -> Model:
    """Return a model that reads images, with random weights."""
    library = checkpoints.transformers()
    config = library.AutoConfig.for_model(family, vision_config=dict(vision), text_config=dict(text))
    model = library.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    checkpoints.randomize(model, 0.1, torch.Generator().manual_seed(0))
    return model


@pytest.mark.parametrize("fused", [False, True])
def test_the_text_part_of_a_whole_model_has_the_numbers_of_transformers(
    oracle: Model, fused: bool, tmp_path: Path
) -> None:
    engine = load_engine(checkpoints.save(oracle, tmp_path, fused=fused))
    wanted = oracles.logits(oracle, IDS)
    assert oracles.relative_difference(engine.logits(IDS, [70, 29, 1]), wanted) <= oracles.TOLERANCE


def test_a_text_part_that_was_saved_alone_has_the_numbers_of_transformers() -> None:
    shape = Shape("qwen3_5_moe")
    wanted = oracles.logits(shape.model(), IDS)
    assert oracles.relative_difference(load_engine(checkpoints.saved(shape)).logits(IDS), wanted) <= oracles.TOLERANCE


def test_a_conversion_by_mlx_lm_has_the_same_numbers(oracle: Model, tmp_path: Path) -> None:
    source = checkpoints.save(oracle, tmp_path / "source", fused=True)  # as published ones are, which alone it reads
    converted = checkpoints.convert_with_mlx_lm(source, tmp_path / "converted")
    wanted = oracles.logits(oracle, IDS)
    assert oracles.relative_difference(load_engine(converted).logits(IDS), wanted) <= oracles.TOLERANCE


@pytest.mark.parametrize("layout", ["saved", "published", "converted"])
def test_stacks_of_experts_have_the_numbers_of_transformers_turned_or_not(layout: str, tmp_path: Path) -> None:
    oracle = whole_model("qwen3_vl_moe", VISION | {"deepstack_visual_indexes": [0]}, VL_TEXT)
    directory = checkpoints.save(oracle, tmp_path / "saved")
    if layout != "saved":
        tensors = load_file(directory / "model.safetensors")
        turned = {
            name: np.ascontiguousarray(array.swapaxes(1, 2)) if ".experts." in name else array
            for name, array in tensors.items()
        }
        save_file(turned, directory / "model.safetensors", metadata={"format": "pt"})
    if layout == "converted":
        path = directory / "config.json"
        config = json_file.read(path)
        published = {"rope_theta": 500_000.0, "norm_topk_prob": True, "num_experts": 16, "decoder_sparse_step": 1}
        config["text_config"] |= published | {"tie_word_embeddings": False}
        path.write_text(json.dumps(config))
        directory = checkpoints.convert_with_mlx_lm(directory, tmp_path / "converted")
    wanted = oracles.logits(oracle, IDS)
    assert oracles.relative_difference(load_engine(directory).logits(IDS), wanted) <= oracles.TOLERANCE


def test_kimis_names_are_those_of_deepseek_below_the_language_model(tmp_path: Path) -> None:
    plain = checkpoints.saved(Shape("deepseek_v3"))
    config = json_file.read(plain / "config.json")
    nested = {"model_type": "kimi_k25", "text_config": config, "vision_config": {"hidden_size": 1152}}
    (tmp_path / "config.json").write_text(json.dumps(nested))
    tensors = {f"language_model.{name}": array for name, array in load_file(plain / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert families.read_config(nested).model_type == "kimi_k25"
    assert np.array_equal(load_engine(tmp_path).logits(IDS), load_engine(plain).logits(IDS))

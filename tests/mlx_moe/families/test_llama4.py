"""Llama 4 within a model that reads images, and as MLX converts it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_moe import families
from mlx_moe.checkpoint.recipe import uniform
from tests import checkpoints, oracles
from tests.conversions import converted
from tests.engine import load_engine
from tests.families import llama4_text
from tests.oracles import TOLERANCE, relative_difference

pytestmark = pytest.mark.oracle

IDS = oracles.random_ids(80, 256)

TEXT = llama4_text.CONFIG | {"no_rope_layers": [1, 1, 1, 0]}

VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(scope="module")
def oracle() -> checkpoints.Model:
    """Return a model that reads images, with random weights."""
    import torch

    library = checkpoints.transformers()
    config = library.AutoConfig.for_model("llama4", text_config=TEXT, vision_config=VISION)
    model = library.AutoModelForImageTextToText.from_config(config, dtype=torch.float32).eval()
    checkpoints.randomize(model, 0.1, torch.Generator().manual_seed(0))
    return model


@pytest.fixture(scope="module")
def directory(oracle: checkpoints.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(oracle, tmp_path_factory.mktemp("llama4") / "model")


def test_the_text_part_has_the_numbers_of_transformers(oracle: checkpoints.Model, directory: Path) -> None:
    wanted = oracles.logits(oracle.language_model, IDS)
    assert relative_difference(load_engine(directory).logits(IDS, [30, 33, *[1] * 17]), wanted) <= TOLERANCE


def test_a_number_in_place_of_true_tunes_the_temperature() -> None:
    values = llama4_text.CONFIG | {"model_type": "llama4_text", "attn_temperature_tuning": 4}
    config = families.read_config(values)
    assert config == families.read_config(values | {"attn_temperature_tuning": True})
    assert config != families.read_config(values | {"attn_temperature_tuning": False})


def test_a_conversion_of_mlx_lm_computes_what_mlx_lm_does(directory: Path, tmp_path: Path) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= {"rope_theta": 500_000.0, "rope_scaling": None}
    path.write_text(json.dumps(config))
    mlx = checkpoints.convert_with_mlx_lm(directory, tmp_path / "mlx", bits=8, group_size=32)
    assert relative_difference(load_engine(mlx).logits(IDS), oracles.mlx_lm_logits(mlx, IDS)) <= TOLERANCE


def test_a_conversion_computes_what_mlx_lm_does_with_it(directory: Path, tmp_path: Path) -> None:
    ours = converted(directory, tmp_path / "ours", uniform(4, "affine", 32))
    assert np.isfinite(load_engine(ours).logits(IDS)).all()
    assert relative_difference(load_engine(ours).logits(IDS), oracles.mlx_lm_logits(ours, IDS)) <= TOLERANCE

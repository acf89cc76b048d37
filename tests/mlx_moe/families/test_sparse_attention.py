"""Sparse attention: the bits of dense attention while all positions are chosen, rewinds, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mlx_moe import families
from mlx_moe.checkpoint import json_file
from mlx_moe.errors import UnsupportedModelError
from tests import checkpoints, oracles
from tests.checkpoints import Shape
from tests.engine import load_engine
from tests.families import glm_moe_dsa

pytestmark = pytest.mark.oracle

IDS = oracles.random_ids(100, 256)
CHUNKS = [[100], [60, 27, 10, 1, 1, 1]]


def test_while_all_positions_are_chosen_the_bits_are_those_of_dense_attention(tmp_path: Path) -> None:
    sparse = checkpoints.saved(Shape("deepseek_v32", {"index_topk": 100}))
    config = json_file.read(sparse / "config.json") | {"model_type": "deepseek_v3"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(sparse / "model.safetensors")
    dense = {name: array for name, array in tensors.items() if "indexer" not in name}
    save_file(dense, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for chunks in CHUNKS:
        assert np.array_equal(load_engine(sparse).logits(IDS, chunks), load_engine(tmp_path).logits(IDS, chunks))


def test_a_rewind_takes_the_indexers_keys_back_too() -> None:
    engine = load_engine(checkpoints.saved(Shape("deepseek_v32")))
    wanted = engine.logits(IDS, [60, 39, 1])
    engine.logits([*IDS[:60], *IDS[:30]], [60, 30], "other")
    assert np.array_equal(engine.logits(IDS, [60, 39, 1], "other"), wanted)


def test_layers_that_share_a_choice_are_refused() -> None:
    config = glm_moe_dsa.CONFIG | {"model_type": "glm_moe_dsa", "indexer_types": ["full", "shared", "full", "shared"]}
    with pytest.raises(UnsupportedModelError, match="share the choice of another layer's indexer"):
        families.read_config(config)

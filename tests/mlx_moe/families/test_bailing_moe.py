"""bailing_moe against mlx-lm: transformers has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from bench.synthetic import write_byte_tokenizer
from mlx_moe import families
from mlx_moe.errors import UnsupportedModelError
from mlx_moe.summary import model_parameters
from tests import checkpoints, oracles
from tests.engine import load_engine, load_peers
from tests.oracles import TOLERANCE, relative_difference

pytestmark = pytest.mark.oracle

IDS = oracles.random_ids(80, 256)

CONFIG: dict[str, Any] = {
    "model_type": "bailing_moe",
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 16,
    "num_shared_experts": 1,
    "num_experts_per_tok": 4,
    "norm_topk_prob": True,
    "first_k_dense_replace": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 512,
}

RING = {"score_function": "sigmoid", "moe_router_enable_expert_bias": True, "routed_scaling_factor": 2.5}

SHAPES: dict[str, dict[str, Any]] = {
    "Ling": {},
    "Ling 2.0": RING | {"use_qk_norm": True, "partial_rotary_factor": 0.5, "n_group": 4, "topk_group": 2},
    "with a rotary_dim": RING | {"rotary_dim": 16, "norm_topk_prob": False, "num_shared_experts": 2},
    "with wide shared experts": {"moe_shared_expert_intermediate_size": 96, "first_k_dense_replace": 0},
}


def write(directory: Path, config: dict[str, Any]) -> Path:
    """Write a random original: an expert a tensor, queries, keys and values in one."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(config))
    write_byte_tokenizer(directory)
    mx.random.seed(0)
    tensors: dict[str, mx.array] = {}
    for parameter in model_parameters(families.read_config(config)):
        for source in parameter.layouts[min(1, len(parameter.layouts) - 1)].sources:
            random = mx.random.normal(source.shape)
            spread = 0.1 if source.tensor.endswith("expert_bias") else 1.0
            own = random * source.shape[-1] ** -0.5 if parameter.matrix else spread * random + float(spread == 1.0)
            tensors.setdefault(source.tensor, own)
    mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("name", SHAPES)
def test_logits_are_those_of_mlx_lm_whatever_the_chunks(name: str, tmp_path: Path) -> None:
    directory = write(tmp_path / "original", CONFIG | SHAPES[name])
    wanted = oracles.mlx_lm_logits(directory, IDS)
    engine = load_engine(directory)
    for chunks in ([80], [30, 33, *[1] * 17]):
        assert relative_difference(engine.logits(IDS, chunks), wanted) <= TOLERANCE
    owned = [{layer: tuple(range(first, 16, 2)) for layer in engine.config.moe_layers} for first in (0, 1)]
    split = load_engine(directory, [range(1), range(1, 3)], owned[0], load_peers(directory, owned))
    assert np.array_equal(split.logits(IDS), engine.logits(IDS))


def test_a_conversion_of_mlx_lm_is_read(tmp_path: Path) -> None:
    directory = write(tmp_path / "original", CONFIG | SHAPES["Ling 2.0"])
    converted = checkpoints.convert_with_mlx_lm(directory, tmp_path / "mlx", bits=4, group_size=32)
    wanted = oracles.mlx_lm_logits(converted, IDS)
    assert relative_difference(load_engine(converted).logits(IDS), wanted) <= TOLERANCE


@pytest.mark.parametrize("key", ["use_bias", "use_qkv_bias", "norm_head"])
def test_what_no_published_model_of_today_has_is_refused_by_its_name(key: str) -> None:
    with pytest.raises(UnsupportedModelError, match=key):
        families.read_config(CONFIG | {key: True})

"""gpt-oss: its own layouts, and windows that a request rewinds past."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import mlx_moe
from cluster.cost_reader import CostReader
from mlx_moe import families
from mlx_moe.checkpoint import loader
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.held import Held
from mlx_moe.checkpoint.recipe import AS_STORED, Recipe, uniform
from mlx_moe.checkpoint.stored_parameter import find
from mlx_moe.conversion.conversion import Conversion
from mlx_moe.conversion.plan import plan
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.engine import Engine as Answers
from mlx_moe.decoding.request import Request
from mlx_moe.layers import cache_costs, window_cache
from mlx_moe.pipeline.link import LocalLink
from mlx_moe.pipeline.shard_spec import ShardSpec
from tests import checkpoints, oracles
from tests.conversions import add_part
from tests.engine import Engine, load_engine, load_peers
from tests.mlx_moe.conversion.test_partial_conversion import contents
from tests.mlx_moe.decoding.test_limited_rewinds import Guesses
from tests.mlx_moe.demo_pipeline import Certain, Pipeline, answer, ask_for
from tests.oracles import TOLERANCE, relative_difference

pytestmark = pytest.mark.oracle

IDS = oracles.random_ids(110, 256)
SAME = 1e-5


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint of floats as transformers saves it."""
    return checkpoints.save(checkpoints.Shape("gpt_oss").model(), tmp_path_factory.mktemp("gpt-oss") / "plain")


@pytest.fixture(scope="module")
def published(plain: Path) -> tuple[Path, Path]:
    """Return a checkpoint with experts in MXFP4 as on the hub, and a copy in which they are unpacked."""
    original, unpacked = (shutil.copytree(plain, plain.parent / name) for name in ("original", "unpacked"))
    stored = mx.load(str(plain / "model.safetensors"))
    numbers = dict(stored)
    for name in [name for name in stored if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        words, scales = mx.quantize(stored.pop(name).swapaxes(-1, -2), group_size=32, bits=4, mode="mxfp4")
        floats = mx.dequantize(words, scales, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32)
        numbers[name] = mx.contiguous(floats.swapaxes(-1, -2))
        stored[f"{name}_blocks"] = mx.view(words, mx.uint8).reshape(*words.shape[:2], -1, 16)
        stored[f"{name}_scales"] = scales
    for directory, tensors in ((original, stored), (unpacked, numbers)):
        mx.save_safetensors(str(directory / "model.safetensors"), tensors, metadata={"format": "pt"})
    with_config(original, quantization_config={"quant_method": "mxfp4"}, rope_parameters=None, **hub_rope(original))
    return original, unpacked


@pytest.fixture(scope="module")
def whole(plain: Path) -> Engine:
    return load_engine(plain)


def hub_rope(directory: Path) -> dict[str, Any]:
    rope = json.loads((directory / "config.json").read_text())["rope_parameters"]
    return {"rope_theta": rope.pop("rope_theta"), "rope_scaling": rope}


def with_config(directory: Path, **changes: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


def convert(source: Path, directory: Path, recipe: Recipe) -> Path:
    with Checkpoint.open(source) as checkpoint:
        planned = plan(checkpoint, families.read_config(checkpoint.config), recipe)
        Conversion(checkpoint, planned, directory, "model").run()
    return directory


def test_blocks_compute_what_transformers_does_with_their_numbers(published: tuple[Path, Path]) -> None:
    original, unpacked = published
    wanted = oracles.logits(oracles.transformers_model(unpacked), IDS)
    assert relative_difference(load_engine(original).logits(IDS), wanted) <= TOLERANCE
    assert relative_difference(load_engine(unpacked).logits(IDS), wanted) <= TOLERANCE


def test_a_conversion_of_mlx_lm_computes_what_mlx_lm_does(published: tuple[Path, Path], tmp_path: Path) -> None:
    source = shutil.copytree(published[0], tmp_path / "source")
    rope = json.loads((source / "config.json").read_text())["rope_scaling"]
    with_config(source, rope_scaling=rope | {"truncate": True})  # mlx-lm knows no other
    converted = checkpoints.convert_with_mlx_lm(source, tmp_path / "mlx", bits=4, group_size=32)
    wanted = oracles.mlx_lm_logits(converted, IDS)
    assert relative_difference(load_engine(converted).logits(IDS), wanted) <= SAME
    again = convert(converted, tmp_path / "again", uniform(2, "affine", 32))
    assert relative_difference(load_engine(again).logits(IDS), oracles.mlx_lm_logits(again, IDS)) <= SAME


def test_a_conversion_of_blocks_computes_what_they_do_quantized_while_loading(
    published: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = uniform(3, "affine", 32)
    converted = convert(published[0], tmp_path / "converted", recipe)
    assert np.array_equal(load_engine(converted).logits(IDS), load_engine(published[0], recipe=recipe).logits(IDS))


def test_a_conversion_of_turned_floats_has_the_numbers_of_their_blocks(
    plain: Path, published: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = uniform(4, "mxfp4")
    converted = convert(plain, tmp_path / "converted", Recipe(experts=recipe.experts))
    assert np.array_equal(load_engine(converted).logits(IDS), load_engine(published[0]).logits(IDS))
    assert np.isfinite(load_engine(plain, recipe=recipe).logits(IDS)).all()


@pytest.mark.parametrize("layout", ["blocks", "apart"])
def test_parts_that_are_converted_apart_are_what_a_conversion_writes(
    plain: Path, published: tuple[Path, Path], layout: str, tmp_path: Path
) -> None:
    source = published[0] if layout == "blocks" else convert(plain, tmp_path / "apart", uniform(8, "affine", 32))
    recipe = uniform(4, "affine", 32)
    wanted = contents(convert(source, tmp_path / "whole", recipe))
    for experts in ((0, 3, 15), tuple(set(range(16)) - {0, 3, 15})):
        add_part(source, tmp_path / "parts", ShardSpec(range(4), dict.fromkeys(range(4), experts)), recipe)
    assert contents(tmp_path / "parts") == wanted


def test_other_experts_are_read_alone_where_projections_are_stored_apart(plain: Path, tmp_path: Path) -> None:
    apart = convert(plain, tmp_path / "apart", uniform(8, "affine", 32))
    with Checkpoint.open(apart) as checkpoint:
        spec = families.layer(families.config_of(checkpoint), 1)
        before, after = (find(checkpoint, spec.expert_parameters(owned)) for owned in (range(8), range(4, 12)))
        held: Held = {}
        loader.load(checkpoint, before, mx.float32, held=held)
        read_bytes: list[int] = []
        loaded = loader.load(checkpoint, after, mx.float32, lambda _, total: read_bytes.append(total), held)
        assert max(read_bytes) == sum(s.nbytes for s in after) // 2
        fresh = loader.load(checkpoint, after, mx.float32)
    for name, weight in loaded.weights.items():
        x = mx.random.normal((8, 1, 128 if name.endswith("gate_up_proj") else 64))
        got, wanted = (w.gather_matmul(x, mx.arange(8)) for w in (weight, fresh.weights[name]))
        assert mx.array_equal(got, wanted).item()


def test_any_split_of_blocks_equals_the_whole_to_the_bit(published: tuple[Path, Path]) -> None:
    owned = [dict.fromkeys(range(4), experts) for experts in ((15,), tuple(range(0, 15, 2)), tuple(range(1, 15, 2)))]
    split = load_engine(published[0], [range(1), range(1, 4)], owned[0], load_peers(published[0], owned))
    whole = load_engine(published[0])
    for chunks in ([110], [20, 50, 31, *[1] * 9]):  # the window is of 24 positions
        assert np.array_equal(split.logits(IDS, chunks), whole.logits(IDS, chunks))


@pytest.mark.parametrize("recipe", [AS_STORED, uniform(4)], ids=["as stored", "4 bit"])
def test_a_part_takes_the_memory_that_is_planned_for_it(published: tuple[Path, Path], recipe: Recipe) -> None:
    costs = CostReader(str(published[0]), float_bytes=4).at(None if recipe is AS_STORED else 4)
    assert costs.weights_bytes == mlx_moe.load(published[0], recipe=recipe).placement[0].weights_bytes


class Rewinds:
    """A pipeline of four stages whose windows keep little, and what one stage writes from scratch."""

    def __init__(self, plain: Path, whole: Engine) -> None:
        self._whole = whole
        self.split = load_engine(plain, [range(i, i + 1) for i in range(4)])

    def fresh(self, request: Request) -> list[int]:
        answers = Answers(
            Coordinator(self._whole.head, self._whole.config.vocab_size), LocalLink(self._whole.link.stages)
        )
        return [token.id for token in answer(answers, request)]


@pytest.fixture
def rewinds(plain: Path, whole: Engine, monkeypatch: pytest.MonkeyPatch) -> Rewinds:
    monkeypatch.setattr(cache_costs, "REACH", 0)
    for module in (cache_costs, window_cache):
        monkeypatch.setattr(module, "GROWTH", 1)
    return Rewinds(plain, whole)


def test_wrong_drafts_change_no_token(rewinds: Rewinds) -> None:
    request = ask_for(IDS[:40], 10)
    wanted = rewinds.fresh(request)
    pipeline = Pipeline(4, lambda: Guesses([*IDS[:40], *wanted], (True, True, False)), loaded=rewinds.split)
    pipeline.coordinator.acceptance = Certain()
    (tokens,) = pipeline.finish(pipeline.ask(request), steps=(0, 1, 0, 1, 0, 1, 2, 3))
    assert [token.id for token in tokens] == wanted
    pipeline.close()


@pytest.mark.parametrize("kept", [10, 99])
def test_a_turn_that_is_taken_back_gives_the_tokens_of_a_fresh_prompt(rewinds: Rewinds, kept: int) -> None:
    pipeline = Pipeline(4, loaded=rewinds.split)
    session = pipeline.new_session()
    pipeline.finish(pipeline.ask(ask_for(IDS, 12), session))
    undone = ask_for([*IDS[:kept], *oracles.random_ids(20, 256, seed=1)], 12)
    (tokens,) = pipeline.finish(pipeline.ask(undone, session))
    assert [token.id for token in tokens] == rewinds.fresh(undone)
    pipeline.close()

"""Qwen3-Next: its MTP layer, what goes back in a conversation, and what its states cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cluster.cost_reader import read_costs
from mlx_moe import families
from mlx_moe.checkpoint import json_file
from mlx_moe.checkpoint.checkpoint import Checkpoint
from mlx_moe.checkpoint.recipe import uniform
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.drafting import MTPDrafter
from mlx_moe.decoding.request import Request, Token
from mlx_moe.layers.cache_costs import INPUTS_KEPT, STATES_KEPT
from mlx_moe.pipeline.holding import load_holding
from mlx_moe.pipeline.shard_spec import ShardSpec
from mlx_moe.sampling_params import SamplingParams
from tests import checkpoints, oracles
from tests.checkpoints import Model, Shape
from tests.conversions import converted
from tests.engine import Engine, load_engine
from tests.mlx_moe.demo_pipeline import GREEDY, SAMPLED, Certain, Pipeline, ask_for

SHAPE = Shape("qwen3_next")
WITH_MTP = Shape(
    "qwen3_next",
    {"num_hidden_layers": 5, "layer_types": [*3 * ["linear_attention"], *2 * ["full_attention"]]},
)
"""Its last layer is to be the MTP layer, which always has full attention."""

IDS = oracles.random_ids(130, 256)

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def whole() -> Engine:
    return load_engine(checkpoints.saved(SHAPE))


@pytest.fixture(scope="module")
def oracle_with_mtp() -> Model:
    return WITH_MTP.model()


@pytest.fixture(scope="module")
def with_mtp(oracle_with_mtp: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_with_mtp(oracle_with_mtp, tmp_path_factory.mktemp("mtp"))


def test_the_mtp_layer_guesses_as_one_of_transformers_layers(oracle_with_mtp: Model, with_mtp: Path) -> None:
    engine = load_engine(with_mtp)
    assert engine.mtp is not None
    hidden_states = engine.head.normed(engine.hidden_states(IDS[:-1], [len(IDS) - 1]))
    got = np.array(engine.mtp(hidden_states, mx.array(IDS[1:]), engine.mtp.new_cache())[1])
    wanted = mtp_logits(oracle_with_mtp, load_file(with_mtp / "model.safetensors"))
    assert oracles.relative_difference(got, wanted) <= oracles.TOLERANCE


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_drafts_taken_back_change_no_token_and_nothing_is_run_again(
    with_mtp: Path, sampling: SamplingParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(coordinator: Coordinator, answering: object, position: int) -> None:  # noqa: ARG001
        raise AssertionError(f"run again from {position}")

    engine = load_engine(with_mtp, [range(i, i + 1) for i in range(4)])
    assert engine.mtp is not None
    request = ask_for(IDS[:40], 16, sampling)
    monkeypatch.setattr(Coordinator, "_go_back", never)
    written = []
    for new_drafter in (None, partial(MTPDrafter, engine.mtp)):
        pipeline = Pipeline(4, new_drafter, loaded=engine)
        pipeline.coordinator.acceptance = Certain()
        answer = pipeline.ask(request)
        written += pipeline.finish(answer, steps=(0, 1, 0, 1, 0, 1, 2, 3))
        pipeline.close()
    assert answer.stats.drafted > answer.stats.accepted
    assert written[0] == written[1]


@pytest.mark.parametrize("kept", [64, 104])
def test_an_undone_a_borrowed_and_an_evicted_conversation_have_the_tokens_of_fresh_ones(
    with_mtp: Path, kept: int
) -> None:
    """The new prompt shares `kept` positions with the first one's 100 and its answer."""
    engine = load_engine(with_mtp, [range(2), range(2, 4)])

    def written(request: Request, **settings: Any) -> list[Token]:
        pipeline = Pipeline(2, loaded=engine, **settings)
        (tokens,) = pipeline.finish(pipeline.ask(request))
        pipeline.close()
        return tokens

    first = ask_for(IDS[:100], 8)
    said = [*IDS[:100], *(token.id for token in written(first))]
    other = ask_for([*said[:kept], *oracles.random_ids(30, 256, seed=1)], 8)
    fresh = written(other)
    undone, borrowed = Pipeline(2, loaded=engine), Pipeline(2, loaded=engine, kv_positions=512)
    session = undone.new_session()
    undone.finish(undone.ask(first, session))
    (tokens,) = undone.finish(undone.ask(other, session))
    assert [token.id for token in tokens] == [token.id for token in fresh]
    undone.close()
    borrowed.finish(borrowed.ask(first, borrowed.new_session()))
    assert borrowed.finish(borrowed.ask(other, borrowed.new_session())) == [fresh]
    assert borrowed.finish(borrowed.ask(first)) == [written(first)]  # one of the others was evicted for it
    borrowed.close()


def test_states_cost_what_the_planner_counts_at_most(whole: Engine) -> None:
    config = families.read_config(json_file.read(checkpoints.saved(SHAPE) / "config.json"))
    costs = families.cache_costs(config, 4)
    assert costs.bytes_per_position == 2 * 2 * 64 * 4
    (stage,) = whole.link.stages
    before = stage.kv_bytes
    whole.logits(IDS, [*[20] * 5, *[1] * 30], "costs")
    assert stage.kv_bytes - before == costs.nbytes(256)
    stage.release("costs")
    assert costs.fixed_bytes == 3 * (STATES_KEPT * 4 * (4 * 32 * 32 + 3 * 256) + INPUTS_KEPT * 4 * (256 + 2 * 4))


def test_a_conversion_has_the_bits_of_quantizing_while_loading_and_keeps_the_mtp_layer(
    with_mtp: Path, tmp_path: Path
) -> None:
    quantized, conversion = load_engine(with_mtp, recipe=uniform(4)), load_engine(converted(with_mtp, tmp_path / "4"))
    assert conversion.mtp is not None
    assert np.array_equal(conversion.logits(IDS), quantized.logits(IDS))


def test_the_planner_counts_the_bytes_that_are_loaded(with_mtp: Path) -> None:
    with Checkpoint.open(with_mtp) as checkpoint:
        config = families.config_of(checkpoint)
        holding = load_holding(
            checkpoint, config, ShardSpec(range(config.num_hidden_layers)), coordinates=True, with_mtp=True
        )
    assert holding.mtp is not None
    assert read_costs(str(with_mtp), float_bytes=4).stored_bytes == holding.weights_bytes


def save_with_mtp(model: Model, directory: Path) -> Path:
    """Save a model whose last layer becomes the MTP layer, under the names of published checkpoints."""
    checkpoints.save(model, directory)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    index, width = config["num_hidden_layers"] - 1, config["hidden_size"]
    config |= {"num_hidden_layers": index, "layer_types": config["layer_types"][:index]}
    path.write_text(json.dumps(config))
    tensors = load_file(directory / "model.safetensors")
    tensors = {name.replace(f"model.layers.{index}.", "mtp.layers.0."): array for name, array in tensors.items()}
    random = np.random.default_rng(0)
    for norm in ("pre_fc_norm_embedding", "pre_fc_norm_hidden", "norm"):
        tensors[f"mtp.{norm}.weight"] = random.uniform(-0.5, 0.5, width).astype(np.float32)
    projection = random.normal(0, (2 * width) ** -0.5, (width, 2 * width))
    tensors["mtp.fc.weight"] = projection.astype(np.float32)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def mtp_logits(model: Model, tensors: Mapping[str, Any]) -> oracles.Logits:
    """Return the logits `[L-1, V]` of the MTP layer, built of transformers' parts: the last layer of a model and norms.

    Source of the order: vLLM's `qwen3_next_mtp`.
    """
    import torch

    def normed(x: Any, name: str) -> Any:
        weight = 1 + torch.from_numpy(tensors[f"mtp.{name}.weight"])
        return torch.nn.functional.rms_norm(x, weight.shape, weight, model.config.rms_norm_eps)

    *layers, last = model.model.layers
    positions = torch.arange(len(IDS))[None]
    hidden_states = model.model.embed_tokens(torch.tensor([IDS]))
    embedded = hidden_states[:, 1:]
    rotary = model.model.rotary_emb(hidden_states, positions)
    with torch.no_grad():
        for layer in layers:
            hidden_states = layer(hidden_states, position_embeddings=rotary, attention_mask=None)
        hidden_states = model.model.norm(hidden_states)[:, :-1]
        parts = [normed(embedded, "pre_fc_norm_embedding"), normed(hidden_states, "pre_fc_norm_hidden")]
        joined = torch.cat(parts, dim=-1) @ torch.from_numpy(tensors["mtp.fc.weight"]).T
        rotary = model.model.rotary_emb(joined, positions[:, :-1])
        predicted = last(joined, position_embeddings=rotary, attention_mask=None)
        logits: oracles.Logits = model.lm_head(normed(predicted, "norm"))[0].numpy()
    return logits

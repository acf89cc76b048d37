"""Parity: logits and greedy tokens are those of transformers, in float32, whatever the seed and the router's bias.

The families' configurations: tests/family_checks.py.
"""

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_moe
from mlx_moe import content, families
from mlx_moe.checkpoint import json_file, library
from mlx_moe.checkpoint.checkpoint import Checkpoint
from tests import checkpoints, oracles
from tests.checkpoints import Shape
from tests.engine import load_engine
from tests.oracles import TOLERANCE, Answer, relative_difference

pytestmark = pytest.mark.oracle

SHAPES = {
    "deepseek_v3 of another seed": Shape("deepseek_v3", seed=1),
    "qwen3_moe of another seed": Shape("qwen3_moe", seed=1),
    "deepseek_v3 without router bias": Shape("deepseek_v3", router_bias=0.0),
    "deepseek_v3 with a large router bias": Shape("deepseek_v3", router_bias=0.3),
    "deepseek_v3 with a very large router bias": Shape("deepseek_v3", {"num_experts_per_tok": 6}, router_bias=1.0),
}


@pytest.mark.parametrize("name", SHAPES)
def test_logits_and_greedy_tokens_equal_those_of_transformers(name: str, tmp_path: Path) -> None:
    oracle = SHAPES[name].model()
    directory = checkpoints.save(oracle, tmp_path)
    assert_parity(directory, oracle)


def assert_parity(directory: Path, oracle: checkpoints.Model) -> Answer:
    """Hold the package's logits, and 64 tokens at temperature 0 past any end of turn, to the oracle's."""
    model = mlx_moe.load(directory)
    answer = oracles.clear_answer(
        oracle, lambda prompt: [token.id for token in model.generate(mlx_moe.Request.exactly(prompt, 64))]
    )
    model.close()
    assert answer.written == answer.likeliest
    engine = load_engine(directory)
    assert relative_difference(engine.logits(answer.prompt + answer.written), answer.logits) <= TOLERANCE
    return answer


def test_an_lm_head_in_the_files_counts_even_if_config_json_ties_it(tmp_path: Path) -> None:
    oracle = Shape("llama").model()
    path = checkpoints.save(oracle, tmp_path) / "config.json"
    path.write_text(json.dumps(json_file.read(path) | {"tie_word_embeddings": True}))
    assert_parity(tmp_path, oracles.transformers_model(tmp_path))
    with Checkpoint.open(tmp_path) as checkpoint:
        found = families.config_of(checkpoint)
    assert content.config_hash(found) == content.config_hash(families.read_config(json_file.read(path)))


def test_a_router_bias_that_misleads_a_mask_of_zeros_does_not_mislead_ours(tmp_path: Path) -> None:
    oracle = SHAPES["deepseek_v3 with a very large router bias"].model()
    directory = checkpoints.to_hub_dialect(checkpoints.save(oracle, tmp_path))
    ids = oracles.random_ids(64, 256)
    wanted = oracles.logits(oracle, ids)
    misled = relative_difference(oracles.mlx_lm_logits(directory, ids), wanted)
    difference = relative_difference(load_engine(directory).logits(ids), wanted)
    assert difference <= TOLERANCE < 0.1 < misled


def mtp_logits(directory: Path, ids: list[int]) -> oracles.Logits:
    """Return the engine's logits of the MTP layer, `[L-1, V]`."""
    engine = load_engine(directory)
    assert engine.mtp is not None
    hidden_states = engine.head.normed(engine.hidden_states(ids[:-1], [len(ids) - 1]))
    return np.array(engine.mtp(hidden_states, mx.array(ids[1:]), engine.mtp.new_cache())[1])


@pytest.fixture(scope="module")
def demo_oracle(tmp_path_factory: pytest.TempPathFactory) -> checkpoints.Model:
    directory = tmp_path_factory.mktemp("demo") / "dequantized"
    return oracles.transformers_model(oracles.dequantize(library.locate("demo"), directory))


QUESTIONS = (
    "Tell me a story.",
    "Count from 1 to 40.",
    "What is an expert?",
    "Who are you?",
    "What does moe-cluster up do?",
    "Tell me a story about a fox.",
)
"""The first that the demo answers with a clear lead is held to the token."""


def test_the_demo_writes_what_transformers_writes_with_its_dequantized_weights(
    demo_oracle: checkpoints.Model,
) -> None:
    demo = library.locate("demo")
    tokenizer, engine = mlx_moe.load(demo).tokenizer, load_engine(demo)
    for question in QUESTIONS:
        prompt = tokenizer.format_chat([{"role": "user", "content": question}])
        answer = oracles.judge(demo_oracle, prompt, engine.greedy(prompt, 64))
        if answer.lead >= oracles.CLEAR_LEAD:
            break
    assert answer.lead >= oracles.CLEAR_LEAD
    assert answer.written == answer.likeliest
    assert relative_difference(engine.logits(prompt + answer.written), answer.logits) <= TOLERANCE


def test_the_demo_guesses_ahead_as_transformers_with_its_dequantized_weights(demo_oracle: checkpoints.Model) -> None:
    ids = oracles.random_ids(100, demo_oracle.config.vocab_size)
    difference = relative_difference(mtp_logits(library.locate("demo"), ids), oracles.mtp_logits(demo_oracle, ids))
    assert difference <= TOLERANCE

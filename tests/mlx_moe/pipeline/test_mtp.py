"""The MTP layer of the embedded model drafts the token after the next, alone and chained over its cache."""

import shutil
from pathlib import Path

import mlx.core as mx
import pytest
from safetensors.numpy import load_file, save_file

from cli.show import mtp_text
from cluster.cost_reader import read_costs
from mlx_moe.checkpoint import library
from mlx_moe.model import load
from mlx_moe.summary import describe
from tests import checkpoints
from tests.checkpoints import Shape
from tests.engine import load_engine

pytestmark = pytest.mark.oracle

TEXT = "Once upon a time a brave girl lived in a small house. Count from 1 to 20. 1, 2, 3, 4, 5, 6, 7, 8, 9, 10"


def test_it_guesses_most_tokens_after_next_of_what_the_model_itself_writes() -> None:
    engine = load_engine(library.locate("demo"))
    assert engine.mtp is not None
    prompt = load("demo").tokenizer.format_chat([{"role": "user", "content": "Tell me a story."}])
    ids = [*prompt, *engine.greedy(prompt, 48)]
    hidden_states = engine.head.normed(engine.hidden_states(ids, [len(ids)]))
    _, logits = engine.mtp(hidden_states[:-1], mx.array(ids[1:]), engine.mtp.new_cache())
    guessed = mx.argmax(logits, axis=-1).tolist()[len(prompt) - 1 : -1]
    right = sum(a == b for a, b in zip(guessed, ids[len(prompt) + 1 :], strict=True))
    assert right >= 0.5 * len(guessed)


def test_one_position_at_a_time_gives_what_all_at_once_gives() -> None:
    engine = load_engine(library.locate("demo"))
    assert engine.mtp is not None
    ids = load("demo").tokenizer.encode(TEXT)
    hidden_states = engine.head.normed(engine.hidden_states(ids, [len(ids)]))
    _, whole = engine.mtp(hidden_states[:-1], mx.array(ids[1:]), engine.mtp.new_cache())
    cache = engine.mtp.new_cache()
    steps = [engine.mtp(hidden_states[i : i + 1], mx.array(ids[i + 1 : i + 2]), cache)[1] for i in range(len(ids) - 1)]
    assert mx.allclose(mx.concatenate(steps), whole, atol=1e-3).item()


def test_it_is_loaded_only_where_it_is_asked_for() -> None:
    without, with_mtp = load("demo"), load("demo", with_mtp=True)
    assert without.mtp is None
    assert with_mtp.mtp is not None
    assert without._weights_bytes < with_mtp._weights_bytes


LEFT = {
    "nothing": lambda _name: False,
    "the norms": lambda name: name.endswith(
        ("enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight")
    ),
    "all but the last expert": lambda name: "experts.15." not in name,
    "all but a norm": lambda name: "hnorm" not in name,
}
"""What a conversion may leave of the layer that config.json promises."""


@pytest.fixture(scope="module")
def promised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = Shape("deepseek_v3")
    return checkpoints.save_with_mtp(shape, tmp_path_factory.mktemp("mtp") / "model")


@pytest.mark.parametrize("left", LEFT)
def test_a_layer_that_is_promised_and_not_all_there_drafts_nowhere(left: str, promised: Path, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    shutil.copytree(promised, directory)
    path = directory / "model.safetensors"
    tensors = {n: t for n, t in load_file(path).items() if "layers.3." not in n or LEFT[left](n)}
    save_file(tensors, path, metadata={"format": "pt"})
    assert describe(promised).mtp_parameters
    assert load(directory, with_mtp=True).mtp is None
    summary = describe(directory)
    assert summary.mtp_parameters == 0
    assert summary.mtp_missing > 0
    assert "that config.json promises are not in the files" in mtp_text(summary)
    assert read_costs(str(directory), float_bytes=2).mtp is None

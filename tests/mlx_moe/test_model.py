"""Model: the public API over the embedded model, from request to answer."""

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import psutil
import pytest

import mlx_moe
from mlx_moe.checkpoint import library
from mlx_moe.decoding.answer_writer import AnswerWriter
from mlx_moe.decoding.coordinator import Coordinator
from mlx_moe.decoding.engine import Engine
from mlx_moe.decoding.generation import Generation
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.errors import CheckpointError, InvalidRequestError, NumericsError
from mlx_moe.layers.weights import DenseWeight, Linear
from mlx_moe.model import LocalModel as Model
from mlx_moe.pipeline.link import LocalLink

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    loaded = mlx_moe.load("demo")
    yield loaded
    loaded.close()


def ask(model: Model, question: str = "Tell me a story.", **changes: object) -> mlx_moe.Request:
    ids = model.tokenizer.format_chat([{"role": "user", "content": question}])
    defaults = {"sampling": mlx_moe.SamplingParams(temperature=0.0), "max_tokens": 24, "ignore_eos": True}
    return mlx_moe.Request(tuple(ids), **(defaults | changes))  # type: ignore[arg-type]


def ids_of(generation: mlx_moe.Generation) -> list[int]:
    return [token.id for token in generation]


def test_tokens_add_up_to_the_text_and_their_positions_follow_the_prompt(model: Model) -> None:
    request = ask(model)
    generation = model.generate(request)
    tokens = list(generation)
    assert "".join(token.text for token in tokens) == generation.text
    assert [token.position for token in tokens] == list(range(len(request.input_ids), len(request.input_ids) + 24))
    assert all(token.logprob <= 0 for token in tokens)
    assert (generation.finish_reason, generation.stats.generated_tokens) == ("length", 24)


def test_the_same_seed_gives_the_same_tokens_and_another_one_others(model: Model) -> None:
    sampled = mlx_moe.SamplingParams(temperature=3.0, top_p=1.0, seed=5)
    first = ids_of(model.generate(ask(model, sampling=sampled)))
    assert ids_of(model.generate(ask(model, sampling=sampled))) == first
    assert ids_of(model.generate(ask(model, sampling=sampled.updated(seed=6)))) != first


def test_a_seed_is_drawn_and_reported_and_repeats_the_answer(model: Model) -> None:
    sampled = mlx_moe.SamplingParams(temperature=3.0, top_p=1.0)
    generation = model.generate(ask(model, sampling=sampled))
    tokens = ids_of(generation)
    again = model.generate(ask(model, sampling=sampled.updated(seed=generation.seed)))
    assert ids_of(again) == tokens


def test_a_session_prefills_only_what_is_new_and_changes_no_token(model: Model) -> None:
    session = model.new_session()
    first = model.generate(ask(model), session)
    answer = ids_of(first)
    longer = ask(model)
    longer = replace(longer, input_ids=(*longer.input_ids, *answer, *longer.input_ids))
    generation = model.generate(longer, session)
    with_session = ids_of(generation)
    assert generation.stats.cached_tokens >= len(longer.input_ids) - len(ask(model).input_ids) - 1
    assert with_session == ids_of(model.generate(longer))
    session.close()


@pytest.mark.parametrize("changed_at", [0, 3, 5])
def test_an_edited_history_rewinds_to_the_edit(model: Model, changed_at: int) -> None:
    session = model.new_session()
    request = ask(model)
    ids_of(model.generate(request, session))
    edited = list(request.input_ids)
    edited[changed_at] = (edited[changed_at] + 1) % model.config.vocab_size
    generation = model.generate(replace(request, input_ids=tuple(edited)), session)
    assert ids_of(generation) == ids_of(model.generate(replace(request, input_ids=tuple(edited))))
    assert generation.stats.cached_tokens == changed_at
    session.close()


def test_a_cancelled_answer_keeps_what_was_written_and_its_session_goes_on(model: Model) -> None:
    session = model.new_session()
    request = ask(model)
    generation = model.generate(request, session)
    partial = [token.id for token in itertools.islice(generation, 7)]
    generation.close()
    assert generation.finish_reason == "cancelled"
    rest = replace(request, input_ids=(*request.input_ids, *partial))
    continued = model.generate(rest, session)
    assert ids_of(continued) == ids_of(model.generate(rest))
    assert continued.stats.cached_tokens >= len(request.input_ids)
    session.close()


def test_kv_memory_is_given_back_by_answers_without_a_session_and_by_closed_sessions(model: Model) -> None:
    before = model.stage.kv_bytes
    ids_of(model.generate(ask(model)))
    generation = model.generate(ask(model))
    next(generation)
    assert model.stage.kv_bytes > before
    generation.close()
    assert model.stage.kv_bytes == before
    session = model.new_session()
    ids_of(model.generate(ask(model), session))
    assert model.stage.kv_bytes > before
    session.close()
    assert model.stage.kv_bytes == before


def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(model: Model) -> None:
    whole = model.generate(ask(model))
    list(whole)
    stop = whole.text[20:26]
    generation = model.generate(ask(model, stop=(stop,)))
    shown = "".join(token.text for token in generation)
    assert generation.finish_reason == "stop"
    assert shown == whole.text[: whole.text.index(stop)]


def test_the_end_of_a_turn_ends_the_answer_unless_it_is_ignored(model: Model) -> None:
    generation = model.generate(ask(model, "Hello!", max_tokens=400, ignore_eos=False))
    tokens = ids_of(generation)
    assert generation.finish_reason == "stop"
    assert tokens[-1] in model.tokenizer.eos_token_ids
    assert len(ids_of(model.generate(ask(model, "Hello!", max_tokens=len(tokens) + 5)))) == len(tokens) + 5


def test_loading_again_and_again_leaves_no_threads_behind() -> None:
    def threads() -> int:
        mlx_moe.load("demo").close()
        return psutil.Process().num_threads()

    before = threads()
    assert [threads() for _ in range(3)] == [before] * 3


def test_the_context_ends_an_answer_without_max_tokens(tmp_path: Path) -> None:
    directory = shutil.copytree(library.locate("demo"), tmp_path / "short")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 64}))
    model = mlx_moe.load(directory)
    assert model.context_tokens == 64
    request = mlx_moe.Request(tuple([5] * 61), sampling=mlx_moe.SamplingParams(temperature=0.0), ignore_eos=True)
    generation = model.generate(replace(request, detect_loops=False))
    assert len(ids_of(generation)) == 3
    assert generation.finish_reason == "length"
    model.close()


@pytest.mark.parametrize(
    ("length", "max_tokens", "message"),
    [
        (2048, None, "the prompt has 2048 tokens; the model's context of 2048 leaves no room"),
        (9000, None, "shorten it by 6953"),
        (2000, 49, r"2000 prompt tokens and max_tokens 49 need 2049 positions.*ask for at most 48"),
    ],
)
def test_what_does_not_fit_the_context_is_refused_with_numbers(
    model: Model, length: int, max_tokens: int | None, message: str
) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        model.generate(mlx_moe.Request(tuple([1] * length), max_tokens=max_tokens))


def test_a_token_outside_the_vocabulary_is_refused(model: Model) -> None:
    with pytest.raises(InvalidRequestError, match="input id 999999 is outside the vocabulary"):
        model.generate(mlx_moe.Request((1, 999_999)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": ()}, "the prompt is empty"),
        ({"input_ids": (-1,)}, "token ids must be integers of 0 or more, got -1"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more, got 0"),
        ({"stop": ("",)}, "a stop string"),
        ({"stop": ("x",) * 17}, "at most 16 stop strings are allowed, got 17"),
    ],
)
def test_a_request_out_of_range_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        mlx_moe.Request(**({"input_ids": (1,)} | changes))  # type: ignore[arg-type]


def test_nan_fails_the_request_names_the_layer_and_leaves_the_model_answering(model: Model) -> None:
    layer = model.stage.shard.layers[3]
    healthy = layer._input_norm

    def spoilt(x: mx.array) -> mx.array:
        return healthy(x) * mx.nan

    before = ids_of(model.generate(ask(model)))
    layer._input_norm = spoilt
    with pytest.raises(NumericsError, match=r"node .*, layer 3: hidden states are not finite"):
        ids_of(model.generate(ask(model)))
    generation = model.generate(ask(model))
    layer._input_norm = healthy
    tokens = itertools.islice(generation, 4)
    next(tokens)
    layer._input_norm = spoilt
    with pytest.raises(NumericsError, match="layer 3"):
        list(tokens)
    layer._input_norm = healthy
    assert ids_of(model.generate(ask(model))) == before


def test_nan_in_the_head_is_told_from_nan_in_a_layer(model: Model) -> None:
    broken = Linear(DenseWeight(mx.full((model.config.vocab_size, model.config.hidden_size), mx.nan)))
    coordinator = Coordinator(replace(model.head, lm_head=broken), model.config.vocab_size)
    writer = AnswerWriter(model.tokenizer, Sequence(), ask(model), seed=1, limit=4)
    with pytest.raises(NumericsError, match="output head"):
        list(Generation(Engine(coordinator, LocalLink([model.stage])), writer, close_session=True))


def test_the_sugar_takes_a_text_and_options(model: Model) -> None:
    tokens = list(mlx_moe.generate(model, "Hello", max_tokens=4, temperature=0.0, ignore_eos=True))
    assert len(tokens) == 4


def test_without_a_tokenizer_a_model_answers_token_ids(model: Model, tmp_path: Path) -> None:
    demo = library.locate("demo")
    for path in demo.iterdir():
        if not path.name.startswith("tokenizer"):
            shutil.copy(path, tmp_path)
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        mlx_moe.load(tmp_path, needs_text=True)
    silent = mlx_moe.load(tmp_path)
    wanted, tokens = (
        list(mlx_moe.generate(asked, [1, 4, 30, 31], max_tokens=8, temperature=0.0)) for asked in (model, silent)
    )
    assert [(token.id, token.text) for token in tokens] == [(token.id, "") for token in wanted]
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        mlx_moe.generate(silent, "hello")

"""CoordinatorService: what it says of a model is what the model says of itself on one machine."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

import mlx_moe
from cluster.wire import coordinator_pb2 as pb
from cluster.worker import coordinator_service
from cluster.worker.coordinator_service import CoordinatorService
from mlx_moe.checkpoint import library
from mlx_moe.decoding.sequence import Sequence
from mlx_moe.model import LocalModel

TEMPLATE = "{% for m in messages %}{{ m.content.split('<|user|>')[-1] }}{% endfor %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalModel]:
    """Load the embedded model with special tokens renamed to the markers of a thought."""
    directory = tmp_path_factory.mktemp("thinking")
    for path in library.locate("demo").iterdir():
        shutil.copy(path, directory)
    tokenizer = directory / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|system|>", "[THINK]").replace("<|user|>", "[/THINK]"))
    (directory / "chat_template.jinja").write_text(TEMPLATE.replace("<|user|>", "[/THINK]"))
    (directory / "generation_config.json").write_text('{"top_k": "50", "eos_token_id": 2}')
    loaded = mlx_moe.load(directory)
    yield loaded
    loaded.close()


def service(model: LocalModel) -> CoordinatorService:
    nothing = cast("Any", None)
    return CoordinatorService(model, nothing, nothing, lambda _: "a node")


def test_it_describes_thoughts_notes_and_a_missing_tokenizer(model: LocalModel, tmp_path: Path) -> None:
    context = cast("Any", None)
    told = asyncio.run(service(model).Describe(pb.DescribeRequest(), context))
    assert (told.dialect, told.thought_open, told.thought_close) == ("deepseek", "[THINK]", "[/THINK]")
    assert not told.thoughts_apart
    assert tuple(told.notes) == model.notes
    assert "top_k" in model.notes[0]
    assert (told.vocab_size, told.text_failure) == (model.config.vocab_size, "")
    for path in library.locate("demo").iterdir():
        if path.name != "tokenizer.json":
            shutil.copy(path, tmp_path)
    silent = mlx_moe.load(tmp_path)
    assert "tokenizer.json" in asyncio.run(service(silent).Describe(pb.DescribeRequest(), context)).text_failure


def test_a_conversation_beside_many_that_are_answered_is_remembered(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_service, "MAX_CONVERSATIONS", 1)
    serving = service(model)
    answered = serving._conversation(("mac-1", b"a" * 16))
    serving.answering = cast("Any", {answered.id})
    assert serving._conversation(("mac-1", b"b" * 16)) is serving._conversation(("mac-1", b"b" * 16))


class Released(set[str]):
    """Stands for answering where nothing is answered: ids of sequences that were released."""

    def __contains__(self, _: object) -> bool:
        return False

    def release(self, sequence: Sequence) -> None:
        self.add(sequence.id)


def test_the_node_with_the_most_conversations_loses_one_first(
    model: LocalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coordinator_service, "MAX_CONVERSATIONS", 3)
    serving = service(model)
    serving.answering = released = cast("Any", Released())
    modest = serving._conversation(("mac-1", b"a" * 16))
    many = [serving._conversation(("mac-2", bytes([n]) * 16)) for n in range(5)]
    assert serving._conversation(("mac-1", b"a" * 16)) is modest
    assert set(released) == {sequence.id for sequence in many[:3]}


def test_a_conversation_is_unknown_to_other_nodes(model: LocalModel) -> None:
    serving = service(model)
    own = serving._conversation(("mac-1", b"a" * 16))
    assert serving._conversation(("mac-2", b"a" * 16)) is not own
    serving._free(("mac-3", b"a" * 16))
    assert serving._conversation(("mac-1", b"a" * 16)) is own


def test_an_answers_text_keeps_the_markers_of_a_thought(model: LocalModel) -> None:
    text = "[THINK]ab[/THINK]c"
    ids = model.tokenizer.encode(f"{text}<|end|>", add_special_tokens=False)
    request = pb.DecodeRequest(token_ids=ids, skip_special_tokens=True)
    assert asyncio.run(service(model).Decode(request, cast("Any", None))).text == text

"""The process that reads texts: it encodes as the tokenizer does, and what is hostile ends one question only."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlx_moe.checkpoint import library
from mlx_moe.errors import CheckpointError, InvalidRequestError, TemplateError
from mlx_moe.text import text_process
from mlx_moe.text.text_process import TextProcess
from mlx_moe.text.tokenizer import Tokenizer
from tests.patience import PATIENCE_S

TEXTS = ["", "a", "Once upon a time <|user|>\n\ttwo  spaces", "Größe 🙂 \0 中文", "x" * 5000]

GROWS = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 100}
"""A step that makes text a hundred times as long; four of them make 100 MB of one letter, and gigabytes beside it."""


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop nothing honest where the machine is busy."""
    for deadline in ("DEADLINE_S", "START_DEADLINE_S", "LOAD_DEADLINE_S"):
        monkeypatch.setattr(text_process, deadline, PATIENCE_S)


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    directory = library.locate("demo")
    loaded = Tokenizer.load(directory, TextProcess(directory))
    yield loaded
    loaded.close()


def changed(directory: Path, **changes: Any) -> Path:
    """Write the demo's tokenizer files with changes to tokenizer.json."""
    for path in library.locate("demo").iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, directory)
    path = directory / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


def test_ids_are_those_of_the_tokenizer_in_this_process(tokenizer: Tokenizer) -> None:
    here = Tokenizer.load(library.locate("demo"))
    for text in TEXTS:
        for special in (True, False):
            assert tokenizer.encode(text, special) == here.encode(text, special)
    messages = [{"role": "user", "content": "Hello"}]
    assert tokenizer.format_chat(messages) == here.format_chat(messages)


def test_half_a_surrogate_pair_is_refused_before_it_is_sent(tokenizer: Tokenizer) -> None:
    with pytest.raises(InvalidRequestError, match="half of a surrogate pair at character 2"):
        tokenizer.encode("ab\ud800")


def test_a_process_that_was_killed_is_replaced_with_its_tokenizer(tokenizer: Tokenizer) -> None:
    wanted = tokenizer.encode("again")
    process = tokenizer._encoder
    assert isinstance(process, TextProcess)
    assert process.pid is not None
    psutil.Process(process.pid).kill()
    psutil.Process(process.pid).wait(PATIENCE_S)
    assert tokenizer.encode("again") == wanted


def test_a_normalizer_that_grows_a_letter_is_stopped_when_it_is_loaded(tmp_path: Path) -> None:
    directory = changed(tmp_path, normalizer={"type": "Sequence", "normalizers": [GROWS] * 4})
    process = TextProcess(directory)
    process.begin()
    before = psutil.Process().memory_info().rss
    assert "tokenizer" in str(Tokenizer.load_if_usable(directory, process).failure)
    assert psutil.Process().memory_info().rss - before < 100 << 20
    process.stop()


def test_a_prompt_that_only_a_longer_text_makes_huge_ends_alone(tmp_path: Path) -> None:
    grows = GROWS | {"pattern": {"String": "zq"}, "content": "zq" * 100}
    directory = changed(tmp_path, normalizer={"type": "Sequence", "normalizers": [grows] * 4})
    process = TextProcess(directory)
    process.load()
    with pytest.raises(CheckpointError, match=r"the tokenizer .*cannot encode this text"):
        process.encode("zq", add_special_tokens=False)
    assert process.encode("fine", add_special_tokens=False) == Tokenizer.load(directory).encode("fine", False)
    process.stop()


def test_an_endless_template_ends_its_question_and_the_tokenizer_answers_the_next(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = tokenizer._encoder
    assert isinstance(process, TextProcess)
    process.encode("warm", add_special_tokens=False)
    with monkeypatch.context() as patch:
        patch.setattr(text_process, "DEADLINE_S", 0.3)
        with pytest.raises(TemplateError, match=r"did not end within 0\.3 s"):
            process.render("{% for a in range(10**4) %}{% for b in range(10**4) %}{% endfor %}{% endfor %}", {})
    assert process.encode("a", add_special_tokens=False) == tokenizer.encode("a", False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder": {"type": "Sequence", "decoders": [GROWS, GROWS]}}, "text 10,000 times as long"),
        ({"added_tokens": [{"id": 999, "content": "x" * 70_000, "special": False, "single_word": False,
                            "lstrip": False, "rstrip": False, "normalized": False}]}, "a token has 70,000 characters"),
        ({"model": {"type": "BPE"}}, "is not a tokenizer"),
    ],
    ids=["decoder", "token", "damaged"],
)  # fmt: skip
def test_files_that_would_do_harm_outside_are_refused_when_they_are_loaded(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    directory = changed(tmp_path, **changes)
    process = TextProcess(directory)
    process.begin()
    tokenizer = Tokenizer.load_if_usable(directory, process)
    assert said in str(tokenizer.failure)
    process.stop()


def test_a_process_ends_with_what_holds_it() -> None:
    process = TextProcess()
    process.render("x", {})
    pid = process.pid
    assert pid is not None
    del process
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)

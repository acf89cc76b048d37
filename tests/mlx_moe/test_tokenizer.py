"""Tokenizer and detokenizer: as transformers, whole characters, and refusals of what is no text or no tokenizer."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mlx_moe import tokenizer as ours
from mlx_moe.detokenizer import Detokenizer
from mlx_moe.errors import CheckpointError, InvalidRequestError

TEXTS = [
    "the cat and the hat, 42 times",
    "naïve façade über Straße",
    "日本語の文章 です",
    "🙂🙃 👩‍👩‍👧 emoji",
    "עברית العربية",
] * 4


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken("<s>", special=True), AddedToken("</s>", special=True)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_fallback() -> Tokenizer:
    """Build one in the manner of sentencepiece conversions: metaspace, and bytes for what is not in the vocabulary."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefghijklmnoprstu",
        "▁t",
        "he",
    ]
    vocab = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=[("▁", "t"), ("h", "e")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1, right=0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken("<s>", special=True), AddedToken("</s>", special=True)])
    return tokenizer


KINDS = {"byte level": byte_level(), "byte fallback": byte_fallback()}


def pieces_of(kind: str, ids: list[int]) -> list[str]:
    tokenizer = KINDS[kind]
    special = frozenset(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)
    detokenizer = Detokenizer(tokenizer, special)
    return [*(detokenizer.add(i) for i in ids), detokenizer.finish()]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=30))
def test_pieces_of_a_text_add_up_and_hold_no_half_characters(kind: str, text: str) -> None:
    ids = KINDS[kind].encode(text, add_special_tokens=False).ids
    pieces = pieces_of(kind, ids)
    assert "".join(pieces) == KINDS[kind].decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(0, 270), max_size=30))
def test_pieces_of_any_bytes_add_up(ids: list[int]) -> None:
    assert "".join(pieces_of("byte level", ids)) == KINDS["byte level"].decode(ids)


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.integers(3, 258), max_size=30))
def test_bytes_that_are_no_text_are_not_held_for_ever(ids: list[int]) -> None:
    pieces = pieces_of("byte fallback", [*ids, 260])
    assert len(pieces[-1]) <= 4
    waiting = 0
    for piece in pieces[:-2]:
        waiting = 0 if piece else waiting + 1
        assert waiting < 4


def test_a_token_costs_the_same_at_the_end_of_a_long_answer() -> None:
    special: frozenset[int] = frozenset()
    detokenizer = Detokenizer(KINDS["byte level"], special)
    for token_id in KINDS["byte level"].encode(" ".join(TEXTS * 20)).ids:
        detokenizer.add(token_id)
        assert len(detokenizer._window) <= 16


CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def write(directory: Path, tokenizer_config: dict[str, Any] | None = None, **files: Any) -> Path:
    KINDS["byte level"].save(str(directory / "tokenizer.json"))
    values = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": CHATML} | (tokenizer_config or {})
    (directory / "tokenizer_config.json").write_text(json.dumps(values))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


MESSAGES = [{"role": "user", "content": "the cat\n and </s> 🙂"}, {"role": "assistant", "content": "übe"}]


def test_encoding_decoding_and_chats_are_those_of_transformers(tmp_path: Path) -> None:
    tokenizer = ours.Tokenizer.load(write(tmp_path))
    theirs = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    for text in TEXTS[:5]:
        assert tokenizer.encode(text) == theirs.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text
    wanted = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert tokenizer.format_chat(MESSAGES) == wanted


def test_every_file_may_say_what_ends_a_turn(tmp_path: Path) -> None:
    files = {"generation_config": {"eos_token_id": [7, 8]}, "config": {"eos_token_id": 9}}
    tokenizer = ours.Tokenizer.load(write(tmp_path, {"eos_token": {"content": "</s>"}}, **files))
    assert tokenizer.eos_token_ids == {1, 7, 8, 9}


def test_a_template_of_its_own_file_wins(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    tokenizer = ours.Tokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.format_chat([{"role": "user", "content": "cat"}])) == "cat"


def test_a_template_may_be_one_of_several(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    tokenizer = ours.Tokenizer.load(write(tmp_path, {"chat_template": named}))
    assert tokenizer.decode(tokenizer.format_chat([])) == "yes"


def test_without_a_template_a_chat_is_refused_with_the_cure(tmp_path: Path) -> None:
    tokenizer = ours.Tokenizer.load(write(tmp_path, {"chat_template": None}))
    with pytest.raises(InvalidRequestError, match="--raw"):
        tokenizer.format_chat(MESSAGES)


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="half of a surrogate pair at character 3"):
        ours.Tokenizer.load(write(tmp_path)).encode("the\ud83d")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "BPE"}}', "\x00"])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
        ours.Tokenizer.load(tmp_path)


def test_a_missing_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read: No such file"):
        ours.Tokenizer.load(tmp_path)

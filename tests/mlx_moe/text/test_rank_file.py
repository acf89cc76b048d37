"""Rank file: ids as tiktoken's, and refusals of what is damaged or split in an unknown way."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from mlx_moe.errors import CheckpointError, UnsupportedModelError
from mlx_moe.text import rank_file
from mlx_moe.text.byte_level import BYTE_OF
from mlx_moe.text.dialects import Content, Reasoning, ToolCall
from mlx_moe.text.tokenizer import Tokenizer as CheckpointTokenizer

TEXTS = (
    "The quick brown fox, 12345 times: don't, WE'LL  go\n\n",
    "日本語の文章 です 漢字",
    "naïve Straße 🙂👩‍👩‍👧",
    "  x\t\r\n y",
)
SPECIAL = ("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>")
KIMI: dict[str, Any] = {"auto_map": {"AutoTokenizer": ["tokenization_kimi.TikTokenTokenizer", None]}}


def trained(size: int) -> list[bytes]:
    """Return the tokens of a small vocabulary in the order in which they were learnt."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(rank_file._KIMI_SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS * 4, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    ordered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [bytes(map(BYTE_OF.__getitem__, spelled)) for spelled, _ in ordered]


RANKS = trained(420)
BASE = len(RANKS)


def write(directory: Path, ranks: list[bytes], config: dict[str, Any] | None = None, **model: Any) -> Path:
    lines = (base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks))
    (directory / rank_file.NAME).write_bytes(b"".join(lines))
    decoder = {str(BASE + i): {"content": text, "special": True} for i, text in enumerate(SPECIAL)}
    decoder[str(BASE + 9)] = {"content": "<think>", "special": False}  # five ids before it are reserved
    values = {"bos_token": "[BOS]", "eos_token": "[EOS]", "added_tokens_decoder": decoder} | (
        KIMI if config is None else config
    )
    (directory / "tokenizer_config.json").write_text(json.dumps(values))
    (directory / "config.json").write_text(json.dumps({"eos_token_id": BASE + 2} | model))
    return directory


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CheckpointTokenizer:
    return CheckpointTokenizer.load(write(tmp_path_factory.mktemp("kimi"), RANKS))


@pytest.fixture(scope="module")
def theirs() -> tiktoken.Encoding:
    special = {text: BASE + i for i, text in enumerate(SPECIAL)} | {"<think>": BASE + 9}
    ranks = {token: rank for rank, token in enumerate(RANKS)}
    return tiktoken.Encoding("kimi", pat_str=rank_file._KIMI_SPLIT, mergeable_ranks=ranks, special_tokens=special)


likely = st.sampled_from(
    "aeiou thelo'sSDTLM\u017f\u212a 0123456789!?.,\n\r\t漢字語日本é\u0300ß\u3000\u00a0\u0085\u200b\u2028ΣςİKΩ🙂👩\u200d"
)
pieces = st.text(likely | st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=300)
@given(st.lists(pieces | st.sampled_from([*SPECIAL, "<think>", "<|im"]), max_size=4).map("".join))
def test_ids_are_those_of_tiktoken(tokenizer: CheckpointTokenizer, theirs: tiktoken.Encoding, text: str) -> None:
    ids = theirs.encode(text, allowed_special="all")
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_special_tokens_have_the_ids_that_are_stated(tokenizer: CheckpointTokenizer) -> None:
    assert (tokenizer.bos_token_id, tokenizer.eos_token_ids) == (BASE, {BASE + 1, BASE + 2})
    assert tokenizer.encode(f"<think>[EOS]<|reserved_token_{BASE + 5}|>") == [BASE + 9, BASE + 1, BASE + 5]
    assert tokenizer.decode([BASE + 2, *tokenizer.encode("ok"), BASE + 1]) == "ok"
    one = tokenizer.detokenizer()
    assert "".join(map(one.add, tokenizer.encode("漢字 🙂 x"))) + one.finish() == "漢字 🙂 x"


K2_SPECIAL = {
    0: "[BOS]",
    1: "[EOS]",
    2: "<|im_end|>",
    3: "<|im_user|>",
    4: "<|im_assistant|>",
    6: "<|start_header_id|>",
    7: "<|end_header_id|>",
    9: "[EOT]",
    10: "<|im_system|>",
    11: "<|tool_calls_section_begin|>",
    12: "<|tool_calls_section_end|>",
    13: "<|tool_call_begin|>",
    14: "<|tool_call_argument_begin|>",
    15: "<|tool_call_end|>",
    17: "<|im_middle|>",
    22: "<think>",
    23: "</think>",
    254: "[UNK]",
    255: "[PAD]",
}
"""Special tokens of Kimi-K2-Thinking by distance from the first, 163584; the other ids up to 255 are reserved."""
K2_PROMPT = "<|im_system|>tool_declare<|im_middle|>[]<|im_end|><|im_user|>user<|im_middle|>天気 Rome?<|im_end|>"
K2_ANSWER = (
    "<think>I look.</think>One moment.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
    '<|tool_call_argument_begin|>{"city": "Rome"}<|tool_call_end|><|tool_calls_section_end|>'
)


@pytest.mark.parametrize("are_special", [True, False])
def test_the_special_tokens_of_k2_are_tiktokens_and_its_calls_are_read(tmp_path: Path, are_special: bool) -> None:
    decoder = {str(BASE + i): {"content": text, "special": are_special or i < 11} for i, text in K2_SPECIAL.items()}
    config = KIMI | {"added_tokens_decoder": decoder}
    tokenizer = CheckpointTokenizer.load(write(tmp_path, RANKS, config, model_type="kimi_k2"))
    reserved = {f"<|reserved_token_{BASE + i}|>": BASE + i for i in range(256) if i not in K2_SPECIAL}
    special = reserved | {text: BASE + i for i, text in K2_SPECIAL.items()}
    theirs = tiktoken.Encoding(
        "k2",
        pat_str=rank_file._KIMI_SPLIT,
        mergeable_ranks={token: rank for rank, token in enumerate(RANKS)},
        special_tokens=special,
    )
    for text in (K2_PROMPT + K2_ANSWER, "".join(special), *special):
        assert tokenizer.encode(text, add_special_tokens=False) == theirs.encode(text, allowed_special="all")
    answer = tokenizer.answer_text([*tokenizer.encode(K2_ANSWER), BASE + 2])
    assert answer == K2_ANSWER
    *text, call, _ = tokenizer.dialect.split(answer)
    assert [part.text for part in text if isinstance(part, Reasoning | Content)] == ["I look.", "One moment."]
    assert isinstance(call, ToolCall)
    assert (call.id, call.name, call.arguments) == ("functions.weather:0", "weather", '{"city": "Rome"}')


@pytest.mark.parametrize(
    "config",
    [
        {"auto_map": {"AutoTokenizer": ["tokenization_moonshot.TikTokenTokenizer", None]}},
        {"auto_map": {"AutoTokenizer": ["moonshotai/Kimi-K2-Instruct--tokenization_kimi.TikTokenTokenizer", None]}},
    ],
)
def test_it_is_read_for_the_models_whose_split_is_known(tmp_path: Path, config: dict[str, Any]) -> None:
    assert CheckpointTokenizer.load(write(tmp_path, RANKS, config)).encode("[EOS]") == [BASE + 1]
    assert CheckpointTokenizer.load(write(tmp_path, RANKS, {}, model_type="kimi_k2")).encode("[EOS]") == [BASE + 1]


def test_another_vendors_file_is_refused_with_the_cure(tmp_path: Path) -> None:
    other = {"auto_map": {"AutoTokenizer": ["tokenization_other.TikTokenTokenizer", None]}}
    for config in (other, {}, {"auto_map": 7}):
        with pytest.raises(UnsupportedModelError, match=r"no tokenizer\.json, and only the publisher.*hf download"):
            CheckpointTokenizer.load(write(tmp_path, RANKS, config, model_type="deepseek_v3"))


@pytest.mark.parametrize(
    ("line", "damage"),
    [
        (5, b"!!!! 5"),
        (5, b"BQ=="),
        (5, b"BQ== five"),
        (5, b" 5"),
        (300, b"\x00\xff 300"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: int, damage: bytes) -> None:
    path = write(tmp_path, RANKS) / rank_file.NAME
    lines = path.read_bytes().splitlines()
    lines[line] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(CheckpointError, match=rf"tiktoken\.model is damaged in line {line + 1}: "):
        CheckpointTokenizer.load(tmp_path)


def test_ranks_may_stand_in_any_order_but_each_of_them_once(tmp_path: Path) -> None:
    path = write(tmp_path, RANKS) / rank_file.NAME
    lines = path.read_bytes().splitlines()
    wanted = CheckpointTokenizer.load(tmp_path).vocabulary
    path.write_bytes(b"\n".join(reversed(lines)))
    assert CheckpointTokenizer.load(tmp_path).vocabulary == wanted
    for rank in (0, 300):
        path.write_bytes(b"\n".join((*lines[:rank], lines[rank].split()[0] + b" 9", *lines[rank + 1 :])))
        with pytest.raises(CheckpointError, match=f"must have each rank from 0 to {BASE - 1} once"):
            CheckpointTokenizer.load(tmp_path)


def test_what_repeats_a_token_lacks_bytes_or_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=f"damaged in line {BASE + 1}"):
        CheckpointTokenizer.load(write(tmp_path, [*RANKS, RANKS[7]]))
    with pytest.raises(CheckpointError, match="no token for 56 of the 256 bytes"):
        CheckpointTokenizer.load(write(tmp_path, [bytes([i]) for i in range(200)]))
    monkeypatch.setattr(rank_file, "MAX_BYTES", 100)
    with pytest.raises(CheckpointError, match="limit of 100 bytes"):
        CheckpointTokenizer.load(write(tmp_path, RANKS))

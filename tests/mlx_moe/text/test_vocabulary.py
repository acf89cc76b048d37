"""Vocabulary: whatever file names a token, ids, flags and what ends a turn are those of transformers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer

from mlx_moe.errors import CheckpointError
from mlx_moe.text import tokenizer as ours

pytestmark = pytest.mark.oracle

TEXTS = ("a<think>b </think> <|im_end|>c</s>", "<s>hello<x> <|im_end|>\n<think><x>x", " <|im_end|><|endoftext|>é")
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")
CLASSES = ("PreTrainedTokenizerFast", "LlamaTokenizerFast", "Qwen2TokenizerFast", None)


def base(directory: Path, *own: dict[str, Any], begins: str | None = None) -> Path:
    """Write a byte-level tokenizer.json whose vocabulary has <s> and </s>, with the added tokens `own`."""
    directory.mkdir(exist_ok=True)
    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "he"]
    tokenizer = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[("h", "e")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    for token in own:
        tokenizer.add_tokens([AddedToken(token["content"], **{flag: token[flag] for flag in FLAGS})])
    if begins is not None:
        token_id = tokenizer.token_to_id(begins)
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begins} $A", special_tokens=[(begins, token_id)]
        )
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory


def token(content: str, *on: str) -> dict[str, Any]:
    return {"content": content} | {flag: flag in on for flag in FLAGS}


def without_special(stated: dict[str, Any]) -> dict[str, Any]:
    """Return a token as special_tokens_map.json has it: all of them are special there."""
    return {key: value for key, value in stated.items() if key != "special"}


def write(directory: Path, **files: dict[str, Any]) -> None:
    for name in ("tokenizer_config", "special_tokens_map", "added_tokens", "config"):
        path = directory / f"{name}.json"
        path.unlink(missing_ok=True)
        if name in files:
            path.write_text(json.dumps(files[name]))


def require_equal(directory: Path) -> None:
    one, theirs = ours.Tokenizer.load(directory), AutoTokenizer.from_pretrained(directory)
    assert one.vocabulary == theirs.get_vocab()
    assert one.bos_token_id == theirs.bos_token_id
    assert one.special_tokens == theirs.special_tokens_map
    added = one._tokenizer.get_added_tokens_decoder()
    assert {i: repr(t) for i, t in added.items()} == {i: repr(t) for i, t in theirs.added_tokens_decoder.items()}
    assert {theirs.eos_token_id} - {None} <= one.eos_token_ids
    for text, special in itertools.product(TEXTS, (True, False)):
        ids = theirs.encode(text, add_special_tokens=special)
        assert one.encode(text, add_special_tokens=special) == ids
        assert one.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
        assert one.decode(ids, skip_special_tokens=False) == theirs.decode(ids)


def in_decoder(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    return {"tokenizer_config": {"added_tokens_decoder": {str(259 + i): t for i, t in enumerate(tokens)}}}


def in_added_tokens(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    special = [t["content"] for t in tokens if t["special"]]
    return {
        "added_tokens": {t["content"]: 259 + i for i, t in enumerate(tokens)},
        "tokenizer_config": {"additional_special_tokens": special},
    }


def in_map(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    names = ("bos_token", "eos_token", "pad_token")
    return {"special_tokens_map": dict(zip(names, tokens, strict=True)) | {"additional_special_tokens": ["<x>"]}}


def by_name(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    extra = {"extra_special_tokens": {"image_token": tokens[0]["content"]}, "video_token": tokens[1]["content"]}
    return {"tokenizer_config": extra | {"eos_token": {"__type": "AddedToken", **tokens[2]}}}


@pytest.mark.parametrize("tokenizer_class", CLASSES)
@pytest.mark.parametrize("places", [in_decoder, in_added_tokens, in_map, by_name])
def test_tokens_of_every_file_and_kind_are_those_of_transformers(
    tmp_path: Path, places: Callable[..., dict[str, Any]], tokenizer_class: str | None
) -> None:
    for on in ((), ("special",), ("lstrip", "special"), ("rstrip", "normalized"), ("single_word",)):
        for own in ((), (token("<|im_end|>", *on),)):
            tokens = [token(text, *on) for text in ("<think>", "</think>", "<|im_end|>")]
            files = places(tokens)
            config = {"bos_token": "<s>", "eos_token": "</s>"} | files.get("tokenizer_config", {})
            if tokenizer_class is not None:
                config["tokenizer_class"] = tokenizer_class
            write(base(tmp_path, *own), **files | {"tokenizer_config": config, "config": {"model_type": "qwen3_moe"}})
            require_equal(tmp_path)


contents = st.sampled_from(["<think>", "</think>", "<|im_end|>", "<s>", "</s>", "<x>", "<|endoftext|>"])
flagged = st.builds(lambda content, on: token(content, *on), contents, st.sets(st.sampled_from(FLAGS)))
typed = flagged.map(lambda stated: {"__type": "AddedToken", **stated})
named = st.dictionaries(st.sampled_from(["bos_token", "eos_token", "pad_token", "image_token"]), contents | typed)
extra = st.lists(contents | typed, max_size=2, unique_by=str)
added = st.lists(flagged, max_size=4, unique_by=lambda stated: str(stated["content"]))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_files_that_contradict_each_other_are_merged_as_by_transformers(tmp_path: Path, data: st.DataObject) -> None:
    own = data.draw(added)
    base(tmp_path, *own, begins=data.draw(st.sampled_from([None, *(t["content"] for t in own)])))
    config = data.draw(named) | {"tokenizer_class": data.draw(st.sampled_from(CLASSES[:3]))}
    config |= {"add_bos_token": data.draw(st.booleans()), "split_special_tokens": data.draw(st.booleans())}
    config |= data.draw(st.dictionaries(st.sampled_from(["additional_special_tokens", "extra_special_tokens"]), extra))
    if data.draw(st.booleans()):
        first = data.draw(st.integers(257, 262))
        config["added_tokens_decoder"] = {str(first + i): t for i, t in enumerate(data.draw(added))}
    plain = st.dictionaries(st.sampled_from(["bos_token", "eos_token", "pad_token"]), contents)
    write(
        tmp_path,
        tokenizer_config=config,
        special_tokens_map=data.draw(plain | st.just({"additional_special_tokens": ["<x>"]})),
        added_tokens={t["content"]: 259 + len(own) + i for i, t in enumerate(data.draw(added))},
        config={"model_type": data.draw(st.sampled_from(["qwen3_moe", "deepseek_v3", "kimi_k2"]))},
    )
    require_equal(tmp_path)


def test_a_turn_ends_with_every_eos_that_a_file_names(tmp_path: Path) -> None:
    decoder = {"259": token("<|im_end|>", "special"), "260": token("<x>", "special")}
    config = {"eos_token": "<|im_end|>", "added_tokens_decoder": decoder}
    write(
        base(tmp_path),
        tokenizer_config=config,
        special_tokens_map={"eos_token": "<x>"},
        config={"eos_token_id": [7, 8.0]},
    )
    assert ours.Tokenizer.load(tmp_path).eos_token_ids == {7, 8, 259, 260}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"added_tokens_decoder": ["<x>"]}},
        {"tokenizer_config": {"added_tokens_decoder": {"x": token("<x>")}}},
        {"tokenizer_config": {"added_tokens_decoder": {"259": token("<x>") | {"special": "yes"}}}},
        {"tokenizer_config": {"added_tokens_decoder": {"259": {"content": 7}}}},
        {"tokenizer_config": {"extra_special_tokens": "<x>"}},
        {"special_tokens_map": {"eos_token": 7}},
        {"added_tokens": {"<x>": "259"}},
        {"added_tokens": {"<x>": 259}, "tokenizer_config": {"extra_special_tokens": 7}},
    ],
)
def test_what_states_no_token_is_refused_by_name(tmp_path: Path, files: dict[str, Any]) -> None:
    write(base(tmp_path), **files)
    with pytest.raises(CheckpointError, match=f"{tmp_path}.* must "):
        ours.Tokenizer.load(tmp_path)


@pytest.mark.parametrize("tokenizer_class", CLASSES)
def test_a_space_before_a_text_is_added_as_by_transformers(tmp_path: Path, tokenizer_class: str | None) -> None:
    config = {"tokenizer_class": tokenizer_class, "add_prefix_space": True}
    write(base(tmp_path), tokenizer_config=config, config={"model_type": "qwen3_moe"})
    require_equal(tmp_path)


def test_one_text_with_several_flags_has_those_that_transformers_leaves(tmp_path: Path) -> None:
    bos, pad = (without_special(token("<x>", on)) for on in ("lstrip", "normalized"))
    names = {"bos_token": bos, "eos_token": "<x>", "pad_token": pad}
    extra = {"extra_special_tokens": ["<s>", "<x>", without_special(token("</s>"))]}
    write(
        base(tmp_path),
        tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"},
        special_tokens_map=names | extra,
        config={"model_type": "deepseek_v3"},
    )
    require_equal(tmp_path)


def test_a_text_that_no_library_takes_is_refused(tmp_path: Path) -> None:
    write(base(tmp_path), tokenizer_config={"eos_token": "\ud800"})
    with pytest.raises(CheckpointError, match="surrogates not allowed"):
        ours.Tokenizer.load(tmp_path)

"""Tokenizer: ids as transformers', and refusals of what is no text or no tokenizer."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mlx_moe.checkpoint import library
from mlx_moe.errors import CheckpointError, InvalidRequestError, UnsupportedModelError
from mlx_moe.text import tokenizer as ours

pytestmark = pytest.mark.oracle

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


BYTE_LEVEL = byte_level()


CHATML = (
    "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def write(directory: Path, tokenizer_config: dict[str, Any] | None = None, **files: Any) -> Path:
    BYTE_LEVEL.save(str(directory / "tokenizer.json"))
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


def test_a_chat_may_have_tools_calls_and_results(tmp_path: Path) -> None:
    tokenizer = ours.Tokenizer.load(write(tmp_path))
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "cat"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "noon"},
    ]
    told = tokenizer.decode(tokenizer.format_chat(messages, tools=tools), skip_special_tokens=False)
    assert '{"name": "clock", "parameters": {}}' in told
    assert '<s>assistant\n<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call></s>' in told
    assert told.endswith("<s>user\n<tool_response>\nnoon\n</tool_response></s>\n<s>assistant\n")


def test_deepseek_v32_needs_no_template_but_its_own_wins(tmp_path: Path) -> None:
    files = {"config": {"model_type": "deepseek_v32"}}
    tokenizer = ours.Tokenizer.load(write(tmp_path, {"chat_template": None}, **files))
    told = tokenizer.decode(tokenizer.format_chat([{"role": "user", "content": "cat"}]))
    assert told == "<｜begin▁of▁sentence｜><｜User｜>cat<｜Assistant｜><think>"
    assert tokenizer.takes_thoughts_apart
    tokenizer = ours.Tokenizer.load(write(tmp_path, {"chat_template": "own"}, **files))
    assert tokenizer.decode(tokenizer.format_chat([])) == "own"


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="half of a surrogate pair at character 3"):
        ours.Tokenizer.load(write(tmp_path)).encode("the\ud83d")


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"model": {"type": "BPE"}}', "\x00"])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
        ours.Tokenizer.load(tmp_path)


def test_a_missing_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json: download it again"):
        ours.Tokenizer.load(tmp_path)


def test_another_format_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(
        UnsupportedModelError,
        match=r"has tokenizer\.model but no tokenizer\.json\. Take.*hf download",
    ):
        ours.Tokenizer.load(tmp_path)


def test_without_a_usable_tokenizer_ids_have_no_text_and_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").touch()
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    tokenizer = ours.Tokenizer.load_if_usable(tmp_path)
    assert (tokenizer.eos_token_ids, tokenizer.chat_template) == ({5}, None)
    one = tokenizer.detokenizer()
    assert one.add(7) + one.finish() == tokenizer.decode([1, 2]) == ""
    for use in (lambda: tokenizer.encode("a"), lambda: tokenizer.format_chat(MESSAGES), lambda: tokenizer.vocabulary):
        with pytest.raises(UnsupportedModelError, match=r"no tokenizer\.json"):
            use()


def test_a_chat_has_no_special_token_twice(tmp_path: Path) -> None:
    directory = write(tmp_path, {"chat_template": "{{ bos_token }}{{ messages[0].content }}"})
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(directory / "tokenizer.json"))
    one, theirs = ours.Tokenizer.load(directory), PreTrainedTokenizerFast.from_pretrained(directory)
    assert one.format_chat(MESSAGES) == theirs.apply_chat_template(MESSAGES, return_dict=False)
    assert one.format_chat(MESSAGES).count(0) == 1
    assert one.encode("the cat") == theirs.encode("the cat")
    assert one.encode("the cat")[0] == one.bos_token_id == 0
    assert one.encode("the cat", add_special_tokens=False) == one.encode("the cat")[1:]


def test_training_settings_in_the_file_cut_and_pad_nothing(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_str(BYTE_LEVEL.to_str())
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=50)
    write(tmp_path)
    wanted = ours.Tokenizer.load(tmp_path).encode(TEXTS[0])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert ours.Tokenizer.load(tmp_path).encode(TEXTS[0]) == wanted
    assert len(wanted) > 4


def test_special_tokens_are_skipped_unless_asked_for(tmp_path: Path) -> None:
    tokenizer = ours.Tokenizer.load(write(tmp_path))
    ids = tokenizer.encode("<s>cat</s>")
    assert ids[0] == 0
    assert tokenizer.decode(ids) == "cat"
    assert tokenizer.decode(ids, skip_special_tokens=False) == "<s>cat</s>"
    assert tokenizer.decode([*ids, tokenizer.vocab_size + 5]) == "cat"


def test_what_does_not_fit_a_token_is_refused(tmp_path: Path) -> None:
    for name, value in (("bos_token", 7), ("eos_token", {"content": 7}), ("chat_template", 7)):
        with pytest.raises(CheckpointError, match=name):
            ours.Tokenizer.load(write(tmp_path, {name: value}))


def test_damage_that_shows_only_in_use_is_found_by_loading(tmp_path: Path) -> None:
    values = json.loads(BYTE_LEVEL.to_str())
    values["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<gone>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not a tokenizer"):
        ours.Tokenizer.load(tmp_path)


def test_a_text_of_too_many_characters_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "MAX_TEXT_CHARACTERS", 10)
    with pytest.raises(InvalidRequestError, match="has 11 characters; the limit is 10"):
        ours.Tokenizer.load(write(tmp_path)).encode("x" * 11)


def test_the_detokenizer_spells_what_decode_does(tmp_path: Path) -> None:
    tokenizer = ours.Tokenizer.load(write(tmp_path))
    for text in TEXTS[:5]:
        ids = [0, *tokenizer.encode(text), 1]
        one = tokenizer.detokenizer()
        assert "".join(one.add(i) for i in ids) + one.finish() == tokenizer.decode(ids) == text


def test_the_embedded_models_tokenizer_is_that_of_transformers() -> None:
    directory = library.locate("demo")
    tokenizer, theirs = ours.Tokenizer.load(directory), PreTrainedTokenizerFast.from_pretrained(directory)
    messages = [{"role": "system", "content": "Be brief."}, *MESSAGES, {"role": "user", "content": "42 🙂"}]
    wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.format_chat(messages) == wanted
    assert tokenizer.eos_token_ids == {theirs.eos_token_id}
    for text in TEXTS[:5]:
        assert tokenizer.encode(text) == theirs.encode(text)
        one = tokenizer.detokenizer()
        assert "".join(map(one.add, tokenizer.encode(text))) + one.finish() == text


def test_importing_it_imports_nothing_heavy() -> None:
    script = (
        "import sys, mlx_moe.text.tokenizer\n"
        "print(sorted({'mlx', 'jinja2', 'tokenizers', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"

"""Thoughts: markers keep their place in text, and templates get earlier thoughts where they want them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mlx_moe.text.chat_template import ChatTemplate
from mlx_moe.text.thought import ThoughtMarkers
from mlx_moe.text.tokenizer import Tokenizer as CheckpointTokenizer

PAIRS = [
    ("<think>", "</think>"),
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
]


def tokenizer(directory: Path, added: list[AddedToken], metaspace: bool = False) -> CheckpointTokenizer:
    words = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "▁o", "▁k"]
    model = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    if metaspace:
        model.pre_tokenizer = pre_tokenizers.Metaspace()
        model.decoder = decoders.Metaspace()
    else:
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        model.decoder = decoders.ByteLevel()
    model.add_special_tokens(["<s>", "</s>"])
    model.add_tokens(added)
    model.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return CheckpointTokenizer.load(directory)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("special", [True, False])
def test_markers_keep_their_place_also_where_they_are_special(
    tmp_path: Path, pair: tuple[str, str], special: bool
) -> None:
    one = tokenizer(tmp_path, [AddedToken(text, special=special) for text in (*pair, "<|tool|>")])
    assert (one.dialect.markers.open, one.dialect.markers.close) == pair
    text = f"{pair[0]}hm{pair[1]}ok"
    assert one.answer_text(one.encode(f"<s>{text}<|tool|></s>")) == text + ("" if special else "<|tool|>")
    assert one.decode(one.encode(text)) == ("hmok" if special else text)  # as transformers' own decode


def test_a_vocabulary_that_is_not_of_bytes_shows_special_markers_too(tmp_path: Path) -> None:
    one = tokenizer(tmp_path, [AddedToken(text, special=True) for text in PAIRS[0]], metaspace=True)
    ids = [one.vocabulary[token] for token in ("<s>", "<think>", "▁o", "▁k", "</think>", "▁o", "▁k", "</s>")]
    assert one.answer_text(ids).replace(" ", "") == "<think>ok</think>ok"


def test_of_several_pairs_the_template_names_one() -> None:
    tokens = ["<reason>", "</reason>", "<think>", "</think>", "<thinking_budget>"]
    assert ThoughtMarkers.find(tokens, "") == ThoughtMarkers("<reason>", "</reason>")
    assert ThoughtMarkers.find(tokens, "{{ '<think>' }}") == ThoughtMarkers()
    assert ThoughtMarkers.find(["<think>"], "") == ThoughtMarkers.find([], "") == ThoughtMarkers()


@pytest.mark.parametrize("pair", PAIRS[:4])
def test_without_such_tokens_the_template_names_the_pair(pair: tuple[str, str]) -> None:
    assert ThoughtMarkers.find(["<s>"], f"{{{{ m.content.split('{pair[1]}') }}}}") == ThoughtMarkers(*pair)
    assert ThoughtMarkers.find([], "{{ m.thinking / 2 }}</b> [/reset]") == ThoughtMarkers()


STRIPS = "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}{% endfor %}"
STRIPS_BY_NAME = "{% set end = '</' + 'think>' %}{% for m in messages %}{{ m.content.split(end)[-1] }}{% endfor %}"
WRITES = "{% for m in messages %}{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}{% endfor %}"
PLAIN = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
READS = "{% for m in messages %}{{ m.get('reasoning_content', '') }}{{ m.content.split('</think>')[-1] }}{% endfor %}"
READS_THINKING = "{% for m in messages %}{% if m.thinking %}({{ m.thinking }}){% endif %}{{ m.content }}{% endfor %}"
ALTERNATES = "{% for m in messages %}{{ raise_exception('no') if loop.index > 2 }}{{ m.content }}{% endfor %}"
VARIABLE = "{% if thinking %}<think>{% endif %}" + STRIPS


@pytest.mark.parametrize(
    ("source", "apart"),
    [
        (STRIPS, False),
        (STRIPS_BY_NAME, False),
        (VARIABLE, False),
        (WRITES, True),
        (PLAIN, True),
        (READS, True),
        (READS_THINKING, True),
        (ALTERNATES, True),
        ("{% nonsense", True),
    ],
)
def test_thoughts_go_apart_unless_the_template_strips_them_itself(source: str, apart: bool) -> None:
    assert ChatTemplate(source, {}).takes_thoughts_apart(ThoughtMarkers()) is apart


def test_a_template_that_strips_other_markers_is_known_by_them() -> None:
    other = ThoughtMarkers("◁think▷", "◁/think▷")
    assert not ChatTemplate(STRIPS.replace("</think>", other.close), {}).takes_thoughts_apart(other)
    assert ChatTemplate(STRIPS, {}).takes_thoughts_apart(other)

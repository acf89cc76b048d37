"""The choice of a dialect: by the template, then the model type, then the tokens; and its tokens stay in the text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mlx_moe.text.dialects import Reasoning, ToolCall, choose, named
from mlx_moe.text.thought import ThoughtMarkers
from mlx_moe.text.tokenizer import Tokenizer as CheckpointTokenizer

DSML_CALLS = "<｜DSML｜function_calls>"


@pytest.mark.parametrize(
    ("template", "model_type", "tokens", "name"),
    [
        ("{{ '<tool_call>' }}", "deepseek_v3", ["<｜tool▁calls▁begin｜>"], "qwen"),
        ("{{ '<tool_call>' ~ '<arg_key>' }}", "qwen3_moe", [], "glm"),
        ("{{ '<｜tool▁calls▁begin｜>' ~ '```json' }}", "", [], "deepseek"),
        ("{{ '<｜tool▁calls▁begin｜>' }}", "deepseek_v3", [], "deepseek_v31"),
        (f"{{{{ '{DSML_CALLS}' }}}}", "deepseek_v32", [], "deepseek_v32"),
        ("{{ '<|tool_calls_section_begin|>' }}", "deepseek_v3", [], "kimi"),
        ("{{ '<minimax:tool_call>' }}", "", [], "minimax"),
        ("{{ '<|channel|>' }}", "", [], "harmony"),
        ("{{ '<|python_tag|>' }}", "", [], "llama"),
        ("{{ messages }}", "gpt_oss", ["<tool_call>"], "harmony"),
        ("", "deepseek_v32", [], "deepseek_v32"),
        ("", "unknown", ["<s>", "<tool_call>"], "qwen"),
        ("{{ messages }}", "unknown", ["<s>"], "plain"),
    ],
)
def test_the_template_then_the_model_type_then_the_tokens_decide(
    template: str, model_type: str, tokens: list[str], name: str
) -> None:
    assert choose(template, model_type, tokens).name == name


def test_the_markers_of_a_thought_are_the_checkpoints_own() -> None:
    chosen = choose("{{ '<tool_call>' }}", "", ["[THINK]", "[/THINK]"])
    assert chosen == named("qwen", ThoughtMarkers("[THINK]", "[/THINK]"))
    call = '<tool_call>{"name": "f"}</tool_call>'
    parts = chosen.split(f"[THINK]hm[/THINK]{call}")
    assert [part for part in parts if isinstance(part, Reasoning | ToolCall)] == [
        Reasoning("hm", "hm"),
        ToolCall(0, "f", "{}", "", call),
    ]


def test_a_dialect_that_is_not_known_here_is_plain() -> None:
    assert named("of the future", ThoughtMarkers()).name == "plain"


def test_special_tokens_of_the_dialect_stay_in_the_text_unless_they_end_the_turn(tmp_path: Path) -> None:
    special = ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|other|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    model = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(sorted(alphabet))}, merges=[]))
    model.pre_tokenizer, model.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    model.add_tokens([AddedToken(text, special=True) for text in special])
    model.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|return|>"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt_oss"}))
    tokenizer = CheckpointTokenizer.load(tmp_path)
    assert tokenizer.dialect.name == "harmony"
    text = "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes"
    assert tokenizer.answer_text(tokenizer.encode(f"{text}<|other|><|return|>")) == text

"""Parsing: an answer in any dialect is told apart in the same way however it is cut, and no character is lost."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_moe.text.dialects.choice import DIALECTS
from mlx_moe.text.dialects.dialect import AnswerParser, Dialect, merged
from mlx_moe.text.dialects.parts import Content, Markup, Part, Reasoning, ToolCall
from tests.mlx_moe.text.dialects.transcripts import MALFORMED, ODD, ROME, TOOLS, TRANSCRIPTS, Transcript, heard

LONGEST_HELD = 64
"""Characters; longer than any tag."""

texts = st.sampled_from([(one.dialect, one.text) for one in TRANSCRIPTS] + MALFORMED)

PIECES = sorted(
    {tag for dialect in DIALECTS.values() for tag in dialect.special_tokens}
    | {"<think>", "</think>", "<function=f>", "</function>", "<parameter=a>", "</parameter>", '<invoke name="f">'}
    | {"</invoke>", '<parameter name="a">', '｜DSML｜invoke name="f">', "<｜DSML｜function_calls>", "</｜DSML｜invoke>"}
    | {"assistant", "analysis", " to=functions.f", "function", "clock", "functions.f:0", "weather\n```json\n", "\n```"}
    | {'{"name": "clock", "arguments": {}}', '{"name": "clock", "parameters": {}}', "{", "}", '"', "\\", "\n", " ", "x"}
    | {"```", "````", "~~~", "{}", ";", "é🙂", "<", "</", "<|", "<｜"}
)
soups = st.tuples(st.sampled_from(list(DIALECTS.values())), st.lists(st.sampled_from(PIECES), max_size=24).map("".join))


def split_at(dialect: Dialect, text: str, cuts: list[int]) -> list[Part]:
    """Return the parts of a text that arrives cut at these places."""
    parser, parts, start = dialect.parser(TOOLS), [], 0
    for end in [*sorted(cuts), len(text)]:
        parts += parser.feed(text[start:end])
        start = end
    return merged([*parts, *parser.finish()])


def check_nothing_is_lost(text: str, parts: list[Part]) -> None:
    assert "".join(part.source for part in parts) == text
    for part in parts:
        if isinstance(part, Reasoning | Content):
            assert part.text.replace("\n", "") == part.source.replace("\n", "")


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda one: f"{one.dialect.name}: {one.text[:24]}")
def test_an_answer_is_told_apart(transcript: Transcript) -> None:
    parts = transcript.dialect.split(transcript.text, TOOLS)
    assert heard(parts) == transcript.wanted
    check_nothing_is_lost(transcript.text, parts)
    assert [part.index for part in parts if isinstance(part, ToolCall)] == list(range(len(transcript.calls)))


@pytest.mark.parametrize(("dialect", "text"), MALFORMED, ids=lambda one: str(one)[:40])
def test_a_malformed_call_is_content(dialect: Dialect, text: str) -> None:
    parts = dialect.split(text, TOOLS)
    assert heard(parts)[::2] == ("", [])
    check_nothing_is_lost(text, parts)
    assert "".join(part.source for part in parts if not isinstance(part, Content)).strip() in ("", "<|end|>")


@given(texts | soups, st.data())
def test_any_cutting_gives_the_same_parts(spoken: tuple[Dialect, str], data: st.DataObject) -> None:
    dialect, text = spoken
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=12))
    whole = merged(dialect.split(text, TOOLS))
    assert split_at(dialect, text, cuts) == whole
    assert split_at(dialect, text, list(range(len(text)))) == whole
    check_nothing_is_lost(text, whole)


@given(st.sampled_from(TRANSCRIPTS), st.data())
def test_an_answer_that_breaks_off_loses_nothing(transcript: Transcript, data: st.DataObject) -> None:
    text = transcript.text[: data.draw(st.integers(0, len(transcript.text)))]
    parts = transcript.dialect.split(text, TOOLS)
    check_nothing_is_lost(text, parts)
    complete = heard(parts)[2]
    assert complete == list(transcript.calls)[: len(complete)]


@given(texts | soups)
def test_no_text_is_read_twice(spoken: tuple[Dialect, str]) -> None:
    dialect, text = spoken
    parser = dialect.parser(TOOLS)
    for character in text:
        parser.feed(character)
        reader = parser._reader
        assert len(reader._text) - reader._at < LONGEST_HELD


def fed(parser: AnswerParser, text: str) -> str:
    return "".join(part.text for part in parser.feed(text) if isinstance(part, Content | Reasoning))


def test_a_tag_is_held_back_only_while_it_may_be_one() -> None:
    parser = DIALECTS["qwen"].parser()
    assert fed(parser, "<thi") == ""
    assert fed(parser, "ef>") == "<thief>"
    assert fed(parser, " and <tool_") == " and "
    assert fed(parser, "box") == "<tool_box"
    assert fed(parser, " <tool_call>\n") == " "
    assert fed(parser, "` is a tag") == "<tool_call>\n` is a tag"


def test_what_the_prompt_began_counts() -> None:
    for name, prompt, opening in (
        ("qwen", "<|im_start|>assistant\n<think>\n", "<think>\n"),
        ("qwen", "<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("deepseek", "<｜User｜>What is <think>?<｜Assistant｜></think>", ""),
        ("harmony", "<|end|><|start|>assistant", ""),
        ("harmony", "<|start|>assistant<|channel|>analysis<|message|>Two", "<|channel|>analysis<|message|>Two"),
        ("harmony", "no turn", ""),
    ):
        assert DIALECTS[name].opening(prompt) == opening
    parser = DIALECTS["qwen"].parser(opening="<think>\n")
    assert heard([*parser.feed("hm\n</think>\n\nYes"), *parser.finish()]) == ("hm", "Yes", [])
    parser = DIALECTS["harmony"].parser(opening="<|channel|>analysis<|message|>Two")
    assert heard([*parser.feed(" and two.<|end|>"), *parser.finish()]) == (" and two.", "", [])


def test_without_tools_plain_answers_and_llamas_json_are_content() -> None:
    for name, text in (
        ("plain", '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'),
        ("llama", '{"name": "clock", "parameters": {}}'),
    ):
        assert DIALECTS[name].split(text) == [Content(text, text)]


def test_arguments_stay_as_the_model_wrote_them() -> None:
    written = '{ "a" : 1.0,"b": 1e400, "a": "\\u00e9" }'
    (call,) = DIALECTS["qwen"].split(f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>')
    assert isinstance(call, ToolCall)
    assert call.arguments == written


def test_a_call_of_kimi_keeps_its_id() -> None:
    text = "<|tool_call_begin|>functions.a.b:7<|tool_call_argument_begin|>{}<|tool_call_end|>"
    assert merged(DIALECTS["kimi"].split(text)) == [ToolCall(0, "a.b", "{}", "functions.a.b:7", text)]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)
def test_calls_are_read_as_they_are_written(dialect: Dialect) -> None:
    odd = ODD if dialect.name != "qwen" else ODD | {"city": "</tool_call>"}
    for calls in ([("weather", odd)], [("clock", {}), ("weather", ROME | {"hourly": True, "note": None})]):
        text = dialect.write([(name, json.dumps(arguments)) for name, arguments in calls])
        parts = dialect.split(text, TOOLS)
        assert heard(parts) == ("", "", calls)


def test_markup_is_what_stands_between() -> None:
    parts = DIALECTS["qwen"].split('<think>\na\n</think>\n\nb\n\n<tool_call>{"name": "f"}</tool_call>\n')
    assert [type(part) for part in parts] == [Markup, Reasoning, Markup, Content, Markup, ToolCall, Markup]

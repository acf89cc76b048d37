"""Answers in each dialect, with what they consist of: reasoning, content, and calls as (name, arguments)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from mlx_moe.text.dialects.choice import DIALECTS
from mlx_moe.text.dialects.dialect import Dialect
from mlx_moe.text.dialects.parts import Content, Part, Reasoning, ToolCall

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "For tests.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "hourly": {"type": ["boolean", "null"]},
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "points": {"type": "array"},
                },
            },
        },
    }
    for name in ("weather", "clock")
]

Heard = tuple[str, str, list[tuple[str, Any]]]
"""Reasoning, content, and calls with their arguments' values."""


@dataclass(frozen=True)
class Transcript:
    dialect: Dialect
    text: str
    reasoning: str = ""
    content: str = ""
    calls: tuple[tuple[str, dict[str, Any]], ...] = ()

    @property
    def wanted(self) -> Heard:
        return self.reasoning, self.content, list(self.calls)


def heard(parts: list[Part]) -> Heard:
    """Return what parts say."""
    return (
        "".join(part.text for part in parts if isinstance(part, Reasoning)),
        "".join(part.text for part in parts if isinstance(part, Content)),
        [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, ToolCall)],
    )


ROME = {"city": "Rome", "days": 3}
ODD = {"city": 'Q"}\n</tool_call>\\ {[é🙂', "points": [[1, {"a": "}"}], 2.5e3, None]}
ODD_JSON = r'{"city": "Q\"}\n</tool_call>\\ {[\u00e9\ud83d\ude42", "points": [[1, {"a": "}"}], 2.5e3, null]}'


QUOTED = 'Write `<tool_call>` so:\n\n```\n<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>\n```\nOK?'


def _said(name: str, *transcripts: tuple[Any, ...]) -> list[Transcript]:
    return [Transcript(DIALECTS[name], *rest) for rest in transcripts]


TRANSCRIPTS = [
    *_said(
        "deepseek",
        ("<think>\nTwo and two.\n</think>\n\nFour.\n", "Two and two.", "Four.\n"),
        ("<think>\n\n</think>\n\nFour.", "", "Four."),
        ("<think>not\n\nfinished", "not\n\nfinished", ""),
        (
            "<think>Look.</think>I will look.\n<｜tool▁calls▁begin｜>"
            '<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{"city": "Rome", "days": 3}\n```'
            "<｜tool▁call▁end｜>\n"
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>clock\n"
            "```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "Look.",
            "I will look.",
            (("weather", ROME), ("clock", {})),
        ),
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>" + ODD_JSON + "<｜tool▁call▁end｜>"
            "<｜tool▁call▁begin｜>clock<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "",
            "",
            (("weather", ODD), ("clock", {})),
        ),
        (  # a thought that a call ends without its marker
            "<think>hm\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>clock<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "hm",
            "",
            (("clock", {}),),
        ),
    ),
    *_said(
        "deepseek_v32",
        (
            "<think>hm</think>Let me see.\n\n<｜DSML｜function_calls>\n"
            '<｜DSML｜invoke name="weather">\n<｜DSML｜parameter name="city" string="true">Rome</｜DSML｜parameter>\n'
            '<｜DSML｜parameter name="days" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n'
            '<｜DSML｜invoke name="clock">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
            "hm",
            "Let me see.",
            (("weather", ROME), ("clock", {})),
        ),
        (
            '<｜DSML｜function_calls><｜DSML｜invoke name="f">'
            '<｜DSML｜parameter name="a b" string="true">3</｜DSML｜parameter>'
            '<｜DSML｜parameter name="c" string="false">[1, {"d": "</｜DSML｜parameter>"}]</｜DSML｜parameter>'
            "</｜DSML｜invoke></｜DSML｜function_calls>",
            "",
            "",
            (("f", {"a b": "3", "c": [1, {"d": "</｜DSML｜parameter>"}]}),),
        ),
    ),
    *_said(
        "qwen",
        ("<think>\nhm\n</think>\n\nYes", "hm", "Yes"),
        ("<think>\n\n</think>\n\nYes", "", "Yes"),
        (
            '<think>\nI could write <tool_call>\n{"name": "weather"}\n</tool_call>.\n</think>\n\nNo.',
            'I could write <tool_call>\n{"name": "weather"}\n</tool_call>.',
            "No.",
        ),
        (
            'One moment.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>\n'
            'Then\n<tool_call>{"arguments": ' + ODD_JSON + ', "name": "weather"}</tool_call>\nDone.',
            "",
            "One moment.\n\nThen\n\nDone.",
            (("weather", ROME), ("weather", ODD)),
        ),
        (
            QUOTED,
            "",
            QUOTED,
        ),
        (
            "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
            "<parameter=hourly>\nTrue\n</parameter>\n<parameter=note>\n12\n</parameter>\n</function>\n</tool_call>",
            "",
            "",
            (("weather", {**ROME, "hourly": True, "note": "12"}),),
        ),
        (
            "<tool_call><function=f><parameter=x>\na </parameter> b\n\n</parameter></function></tool_call>"
            "<tool_call><function=f></function></tool_call>",
            "",
            "",
            (("f", {"x": "a </parameter> b\n"}), ("f", {})),
        ),
        ('<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", "", (("f", {"a": 1}),)),
        (  # without the first tag, or both
            "Look:\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
            "<function=clock></function>\nand <function=other></function>",
            "",
            "Look:\n\nand <function=other></function>",
            (("weather", {"city": "Rome"}), ("clock", {})),
        ),
    ),
    *_said(
        "kimi",
        (
            "<think>Look.</think>I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
            '<|tool_call_argument_begin|>{"city": "Rome", "days": 3}<|tool_call_end|>'
            "<|tool_call_begin|>functions.clock:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
            "Look.",
            "I look.",
            (("weather", ROME), ("clock", {})),
        ),
        (
            "<think>hm <|tool_calls_section_begin|>\n<|tool_call_begin|> weather <|tool_call_argument_begin|> "
            + ODD_JSON
            + " <|tool_call_end|>\n<|tool_calls_section_end|>\n\nDone.",
            "hm ",
            "Done.",
            (("weather", ODD),),
        ),
    ),
    *_said(
        "glm",
        (
            "\n<think>Look.</think>\nI look.\n"
            "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n"
            "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>\n<tool_call>clock</tool_call>",
            "Look.",
            "I look.",
            (("weather", ROME), ("clock", {})),
        ),
        (
            "<tool_call>weather<arg_key>city</arg_key><arg_value>a</arg_value>b</arg_value><arg_key>points</arg_key>"
            "<arg_value>[1]</arg_value></tool_call>",
            "",
            "",
            (("weather", {"city": "a</arg_value>b", "points": [1]}),),
        ),
        ("The <tool_call> tag and <tool_call>x tags.", "", "The <tool_call> tag and <tool_call>x tags."),
    ),
    *_said(
        "minimax",
        (
            "<think>\nLook.\n</think>\n\nI look.\n<minimax:tool_call>\n"
            '<invoke name="weather">\n<parameter name="city">Rome</parameter>\n<parameter name="days">3</parameter>\n'
            '</invoke>\n<invoke name="clock">\n</invoke>\n</minimax:tool_call>\nDone.',
            "Look.",
            "I look.\n\nDone.",
            (("weather", ROME), ("clock", {})),
        ),
        ('Say <invoke name="clock"></invoke> aloud.', "", 'Say <invoke name="clock"></invoke> aloud.'),
    ),
    *_said(
        "harmony",
        (
            "<|channel|>analysis<|message|>Two and two.<|end|><|start|>assistant<|channel|>final<|message|>Four.",
            "Two and two.",
            "Four.",
        ),
        (
            "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary<|message|>I look.<|end|>"
            "<|start|>assistant<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
            + ODD_JSON
            + "<|call|>",
            "Look.",
            "I look.",
            (("weather", ODD),),
        ),
        (
            " to=functions.clock<|channel|>commentary json<|message|>{}<|call|><|start|>assistant to=browser.find"
            '<|channel|>analysis<|message|>{"days": 1}',
            "",
            "",
            (("clock", {}), ("browser.find", {"days": 1})),
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>"
            "<|start|>assistant<|channel|>final<|message|>c<|return|>",
            "a\n\nb",
            "c",
        ),
    ),
    *_said(
        "llama",
        ('{"name": "weather", "parameters": {"city": "Rome", "days": 3}}', "", "", (("weather", ROME),)),
        (
            '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "clock", "parameters": {}}\nDone.',
            "",
            "Done.",
            (("f", {}), ("clock", {})),
        ),
        ('{"name": "Bob", "age": 3}\nThat is Bob.', "", '{"name": "Bob", "age": 3}\nThat is Bob.'),
        ('Here: {"name": "clock", "parameters": {}}', "", 'Here: {"name": "clock", "parameters": {}}'),
    ),
    *_said(
        "plain",
        ("<think>hm</think>Yes", "hm", "Yes"),
        ("no <think>hm</think>Yes", "", "no <think>hm</think>Yes"),
        ('<tool_call>{"name": "clock", "arguments": {}}</tool_call>', "", "", (("clock", {}),)),
    ),
]

MALFORMED = [
    (DIALECTS[name], text)
    for name, texts in {
        "deepseek": (
            '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Rome',
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```python\n{}\n```<｜tool▁call▁end｜>",
            "<｜tool▁calls▁begin｜>nothing<｜tool▁calls▁end｜>",
            "a<｜tool▁sep｜>b",
        ),
        "deepseek_v32": (
            '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="x">1</｜DSML｜parameter>',
            '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">',
        ),
        "qwen": (
            '<tool_call>\n{"name": "f", "arguments": {"a": 1}\n</tool_call>',
            '<tool_call>\n{"name": "f", "arguments": {"a": "1}}\n</tool_call>',
            '<tool_call>\n{"name": "f", "arguments": {"a": NaN}}\n</tool_call>',
            '<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>',
            '<tool_call>\n{"arguments": {}}\n</tool_call>',
            '<tool_call>\n{"name": 3, "arguments": {}}\n</tool_call>',
            '<tool_call>\n{"name": "f", "arguments": {}} and more\n</tool_call>',
            "<tool_call>\n" + '{"a":' * 2000 + "1" + "}" * 2000 + "\n</tool_call>",
            "<tool_call>\n<function=f>\n<parameter=x>\nno end",
            "<tool_call>\n<function=>\n</function>\n</tool_call>",
            "<tool_call>\n<function=" + "f" * 300 + ">\n</function>\n</tool_call>",
            "</tool_call>",
        ),
        "kimi": (
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{]<|tool_call_end|>",
            "<|tool_call_begin|>:0<|tool_call_argument_begin|>{}<|tool_call_end|>",
        ),
        "glm": (
            "<tool_call>f<arg_key>a</arg_key>",
            "<tool_call>f<arg_key>a</arg_key>b<arg_value>1</arg_value></tool_call>",
        ),
        "minimax": (
            '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">1',
            "<minimax:tool_call></minimax:tool_call>",
        ),
        "harmony": (
            "<|channel|>commentary to=functions.f<|message|>{not json}<|call|>",
            "<|channel|>commentary to=functions.f<|message|>{",
            "<|channel|>analysis<|end|>",
            "<|start|>user<|message|>hello",
            "no channel at all<|end|>",
            "<|channel|>" + "x" * 400 + "<|message|>",
        ),
        "llama": ('{"name": "weather", "parameters": {', "<|python_tag|>search.call(query=1)"),
    }.items()
    for text in texts
]

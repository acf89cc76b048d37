"""Tools in a prompt: each template gets them in its own form, and as text where it does not know them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlx_moe.errors import InvalidRequestError
from mlx_moe.text import text_process
from mlx_moe.text.chat_template import ChatTemplate
from mlx_moe.text.dialects import ToolCall, choose
from mlx_moe.text.tool_messages import ToolMessages
from tests.patience import PATIENCE_S

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
ARGUMENTS = '{"city":  "Rome"}'
CALL = {"id": "functions.weather:0", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "functions.weather:0", "name": "weather", "content": "It rains."},
]

_DEFINITIONS = "{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}"

TEMPLATES = {
    # as Qwen3's: arguments in either form, content only if it is there
    "qwen": _DEFINITIONS
    + """{%- for m in messages %}
{{- '[' ~ m.role ~ ']' }}{% if m.content is string %}{{ m.content }}{% endif %}
{%- for c in m.tool_calls or [] %}{{ '\\n<tool_call>\\n{"name": "' ~ c.function.name ~ '", "arguments": ' }}
{%- set a = c.function.arguments %}{{ a if a is string else a | tojson }}
{{- '}\\n</tool_call>' }}{% endfor %}{% endfor %}""",
    # as DeepSeek-V3's: no definitions, arguments joined as text, a call is where content is null
    "deepseek": """{% for m in messages %}
{%- if m['role'] == 'system' %}{{ m['content'] }}{% endif %}
{%- if m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}{% endif %}
{%- if m['role'] == 'assistant' and m['content'] is none %}{{ '<｜Assistant｜><｜tool▁calls▁begin｜>' }}
{%- for c in m['tool_calls'] %}{{ '<｜tool▁call▁begin｜>' + c['type'] + '<｜tool▁sep｜>' + c['function']['name']
 + '\\n```json\\n' + c['function']['arguments'] + '\\n```<｜tool▁call▁end｜>' }}{% endfor %}
{{- '<｜tool▁calls▁end｜>' }}{% endif %}
{%- if m['role'] == 'assistant' and m['content'] is not none %}{{ '<｜Assistant｜>' + m['content'] }}{% endif %}
{%- if m['role'] == 'tool' %}{{ '<｜tool▁output▁begin｜>' + m['content'] + '<｜tool▁output▁end｜>' }}{% endif %}
{%- endfor %}""",
    # as GLM's: keys and values of an object, content must be text
    "glm": _DEFINITIONS
    + """{%- for m in messages %}{{ '<|' + m.role + '|>' + m.content }}
{%- for c in m.tool_calls or [] %}{{ '<tool_call>' + c.function.name }}
{%- for k, v in c.function.arguments.items() %}{{ '<arg_key>' ~ k ~ '</arg_key>' }}
{{- '<arg_value>' ~ (v if v is string else v | tojson) ~ '</arg_value>' }}{% endfor %}{{ '</tool_call>' }}{% endfor %}
{%- endfor %}""",
    # as MiniMax's
    "minimax": _DEFINITIONS
    + """{%- for m in messages %}{{ ']~b]' ~ m.role ~ '\\n' ~ (m.content or '') }}{% if m.tool_calls %}
{{- '<minimax:tool_call>' }}{% for c in m.tool_calls %}{{ '<invoke name="' ~ c.function.name ~ '">' }}
{%- for k, v in c.function.arguments.items() %}{{ '<parameter name="' ~ k ~ '">' ~ v ~ '</parameter>' }}{% endfor %}
{{- '</invoke>' }}{% endfor %}{{ '</minimax:tool_call>' }}{% endif %}{% endfor %}""",
    # as Kimi's: the id says which tool a result is of
    "kimi": _DEFINITIONS
    + """{%- for m in messages %}{{ '<|im_' ~ m.role ~ '|>' }}
{%- if m.role == 'tool' %}{{ '## Return of ' ~ m.tool_call_id }}{% endif %}
{{- '' }}{{ m.content or '' }}{% if m.tool_calls %}{{ '<|tool_calls_section_begin|>' }}{% for c in m.tool_calls %}
{{- '<|tool_call_begin|>' ~ c.id ~ '<|tool_call_argument_begin|>' }}
{{- c.function.arguments if c.function.arguments is string else c.function.arguments | tojson }}
{{- '<|tool_call_end|>' }}{% endfor %}{{ '<|tool_calls_section_end|>' }}{% endif %}{% endfor %}""",
    # as gpt-oss's: one call a message, thinking beside it
    "harmony": _DEFINITIONS
    + """{%- for m in messages %}{% if m.tool_calls %}
{%- if m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{%- set c = m.tool_calls[0].function %}{{ '<|start|>assistant to=functions.' + c.name }}
{{- '<|channel|>commentary json<|message|>' }}{{ c.arguments | tojson }}{{ '<|call|>' }}
{%- elif m.role == 'tool' %}{{ '<|start|>functions<|message|>' + m.content + '<|end|>' }}
{%- else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}""",
    # as Llama's
    "llama": _DEFINITIONS
    + """{%- for m in messages %}{{ '<|header|>' ~ m.role }}{% if 'tool_calls' in m %}
{{- '<|python_tag|>' if false }}{{ '{"name": "' + m.tool_calls[0].function.name + '", "parameters": ' }}
{{- m.tool_calls[0].function.arguments | tojson }}{{ '}' }}{% else %}{{ m.content }}{% endif %}{% endfor %}""",
}

KNOWS_NOTHING = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
ALTERNATES = (
    "{% for m in messages %}{{ raise_exception('no role ' ~ m.role) if m.role not in ('system', 'user', 'assistant') }}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop no template where the machine is busy."""
    for deadline in ("DEADLINE_S", "START_DEADLINE_S"):
        monkeypatch.setattr(text_process, deadline, PATIENCE_S)


def conversations(source: str, model_type: str = "") -> ToolMessages:
    return ToolMessages(ChatTemplate(source, {}), choose(source, model_type, []))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("arguments", [ARGUMENTS, {"city": "Rome"}])
def test_every_template_gets_calls_in_the_form_that_it_takes(name: str, arguments: Any) -> None:
    call = {**CALL, "function": {"name": "weather", "arguments": arguments}}
    messages = [MESSAGES[0], {**MESSAGES[1], "tool_calls": [call]}, MESSAGES[2]]
    rendered = conversations(TEMPLATES[name]).render(messages, tools=TOOLS)
    assert "Tells the weather." in rendered
    assert "It rains." in rendered
    dialect = choose(TEMPLATES[name], "", [])
    assert dialect.name == name
    marked = rendered[rendered.index("Weather?") :].replace("<|header|>assistant", "", 1)
    after = marked.removeprefix("Weather?") if name == "llama" else marked
    calls = [part for part in dialect.split(after, TOOLS) if isinstance(part, ToolCall)]
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("weather", {"city": "Rome"})]


@pytest.mark.parametrize("name", ["qwen", "deepseek", "kimi"])
def test_a_template_that_takes_text_gets_the_arguments_as_the_model_wrote_them(name: str) -> None:
    assert ARGUMENTS in conversations(TEMPLATES[name]).render(MESSAGES, tools=TOOLS)


@pytest.mark.parametrize("source", [KNOWS_NOTHING, ALTERNATES])
def test_a_template_that_knows_no_tools_gets_text(source: str) -> None:
    two = [CALL, {"function": {"name": "clock"}}]
    messages = [MESSAGES[0], {**MESSAGES[1], "content": "I look.", "tool_calls": two}, MESSAGES[2], MESSAGES[2]]
    rendered = conversations(source).render([*messages, MESSAGES[0]], tools=TOOLS)
    system, user, assistant, results, last = rendered.split("[")[1:6]
    assert system.startswith("system]")
    assert '"description": "Tells the weather."' in system
    assert user == "user]Weather?"
    assert assistant == (
        f'assistant]I look.\n\n<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>\n'
        '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
    )
    assert results == "user]" + "\n".join(["<tool_response>\nIt rains.\n</tool_response>"] * 2)
    assert last == "user]Weather?"


def test_what_tells_of_the_tools_joins_the_system_message() -> None:
    parts = [{"type": "text", "text": "Be"}, {"type": "text", "text": " brief."}]
    messages = [{"role": "system", "content": parts}, MESSAGES[0]]
    rendered = conversations(KNOWS_NOTHING, "glm4_moe").render(messages, tools=TOOLS)
    assert rendered.startswith("[system]Be brief.\n\nYou can use these tools.")
    assert "<tool_call>TOOL_NAME\n<arg_key>PARAMETER</arg_key>" in rendered


@pytest.mark.parametrize("tools", [3, "weather", {"name": "weather"}, ["weather"]])
def test_tools_that_are_none_are_refused(tools: Any) -> None:
    with pytest.raises(InvalidRequestError, match="tools must be a list of objects"):
        conversations(KNOWS_NOTHING).render(MESSAGES[:1], tools=tools)


def test_without_tools_nothing_changes() -> None:
    messages = [
        {"role": "system", "content": None},
        MESSAGES[0],
        {"role": "assistant", "content": "x", "tool_calls": []},
    ]
    template = ChatTemplate("{{ messages }}{{ tools is none }}", {})
    assert ToolMessages(template, choose("", "", [])).render(messages) == template.render(messages)


@pytest.mark.parametrize(
    "call",
    [
        {},
        3,
        {"function": {"name": "f", "arguments": "[1]"}},
        {"function": {"name": "", "arguments": {}}},
        {"function": {"name": "f", "arguments": "{"}},
    ],
)
def test_a_call_that_is_none_is_refused(call: Any) -> None:
    with pytest.raises(InvalidRequestError, match="a tool call must have a function with a name"):
        conversations(TEMPLATES["qwen"]).render([MESSAGES[0], {"role": "assistant", "tool_calls": [call]}])

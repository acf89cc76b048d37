"""Chat templates: byte for byte as transformers renders them, and stopped where they would harm."""

import datetime
import time
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mlx_moe.chat_template import ChatTemplate
from mlx_moe.errors import TemplateError

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief. <b>&amp;</b>"},
    {"role": "user", "content": "Größe? 🙂\n\nTwo lines."},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\n1.8 m"},
    {"role": "user", "content": "Thanks"},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"city": {"type": "string", "ä": None}}}}]

TEMPLATES = {
    "tags a turn": """
{%- for message in messages %}
    {{- '<|start|>' + message.role + '\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant\\n' }}{% endif %}""",
    "headers and trimmed content": """{{ bos_token }}
{% for message in messages %}
    <|header|>{{ message.role }}<|/header|>

    {{ message.content | trim }}<|eot|>
{% endfor %}
{% if add_generation_prompt %}
<|header|>assistant<|/header|>

{% endif %}""",
    "system first in a namespace": """{% set ns = namespace(system='', first=true) %}
{%- for m in messages if m.role == 'system' %}{% if ns.first %}{% set ns.system = ns.system + m.content %}
{%- set ns.first = false %}{% else %}{% set ns.system = ns.system + '\\n\\n' + m.content %}{% endif %}{% endfor %}
{{- bos_token }}{{ ns.system }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<|User|>' + m.content }}{% endif %}
{%- if m.role == 'assistant' %}{% set text = m.content.split('</think>')[-1] %}
{{- '<|Assistant|>' + text + eos_token }}{% endif %}
{%- endfor %}{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}""",
    "tools as JSON and thinking off": """{%- if tools %}{{- '# Tools\\n' }}{%- for tool in tools %}{{ tool | tojson }}
{{ tool | tojson(indent=2) }}{% endfor %}{% endif %}
{%- set ns = namespace(last=messages|length - 1) %}
{%- for message in messages[::-1] %}{% set i = (messages|length - 1) - loop.index0 %}
{%- if message.role == 'user' and ns.last == messages|length - 1 %}{% set ns.last = i %}{% endif %}{% endfor %}
{%- for message in messages %}{{ loop.index0 }}:{{ ns.last }}:{{ message.content.lstrip('\\n') }}
{% endfor %}
{%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}""",
    "loop controls, generation, the date": """{% for m in messages %}
{% if m.role == 'system' %}{% continue %}{% endif %}
{% if loop.index > 3 %}{% break %}{% endif %}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}
{% endfor %}{{ strftime_now('%Y') }}""",
    "roles must alternate": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set turns = messages[1:] %}
{% else %}{% set turns = messages %}{% endif %}{% for m in turns %}
{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
[{{ m['role'] | upper }}] {{ m['content'] }} {{ eos_token if m['role'] == 'assistant' }}{% endfor %}""",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("variables", [{}, {"tools": TOOLS, "enable_thinking": False}])
def test_the_text_is_that_of_transformers(name: str, add_generation_prompt: bool, variables: dict[str, Any]) -> None:
    rest = {k: v for k, v in variables.items() if k != "tools"}
    wanted = render_jinja_template(
        conversations=[MESSAGES],
        tools=variables.get("tools"),
        chat_template=TEMPLATES[name],
        add_generation_prompt=add_generation_prompt,
        **TOKENS,
        **rest,
    )[0][0]
    got = ChatTemplate(TEMPLATES[name], TOKENS).render(MESSAGES, add_generation_prompt, **variables)
    assert got == wanted


def test_a_template_that_refuses_the_messages_says_why() -> None:
    template = ChatTemplate(TEMPLATES["roles must alternate"], TOKENS)
    with pytest.raises(TemplateError, match="roles must alternate"):
        template.render(MESSAGES[1:2] * 2)


HOSTILE = {
    "endless": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "ten gigabytes": "{{ 'a' * 10**10 }}",
    "twice as long again and again": (
        "{% set ns = namespace(a='a') %}{% for i in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}"
    ),
    "a large answer": "{{ 'a' * 30000000 }}",
    "a large number": "{{ 10 ** (10 ** 8) }}",
    "python's objects": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "by format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "macros without end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "no template": "{% if %}",
    "what is not there": "{{ nothing.at.all }}",
    "an import": "{% include '/etc/passwd' %}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_stopped_soon_and_the_next_one_renders(name: str) -> None:
    started = time.monotonic()
    with pytest.raises(TemplateError):
        ChatTemplate(HOSTILE[name], {}).render(MESSAGES)
    assert time.monotonic() - started < 10  # 2 s, and the start of a child on a busy machine
    year = str(datetime.datetime.now().year)
    assert ChatTemplate("{{ strftime_now('%Y') }}", {}).render([]) == year


def test_a_template_sees_only_what_it_is_given() -> None:
    text = ChatTemplate("{{ bos_token }}{{ messages | length }}{{ more }}", TOKENS).render(MESSAGES, more="x")
    assert text == "<s>4x"


def test_a_template_of_megabytes_is_not_read() -> None:
    with pytest.raises(TemplateError, match="has 2000000 characters, at most 1048576"):
        ChatTemplate("x" * 2_000_000, {})


def test_messages_that_are_no_json_are_refused() -> None:
    with pytest.raises(TemplateError):
        ChatTemplate("{{ messages }}", {}).render([{"role": "user", "content": object()}])

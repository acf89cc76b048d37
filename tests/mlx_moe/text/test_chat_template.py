"""Chat templates: byte for byte as transformers renders them, and stopped where they would harm."""

import datetime
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from mlx_moe.errors import InvalidRequestError, TemplateError
from mlx_moe.text import text_process
from mlx_moe.text.chat_template import ChatTemplate
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.oracle

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


DEADLINE_S = text_process.DEADLINE_S


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop no honest template where the machine is busy."""
    for deadline in ("DEADLINE_S", "START_DEADLINE_S"):
        monkeypatch.setattr(text_process, deadline, PATIENCE_S)


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
    "a sum without end": "{{ range(99999) | map('string') | list | length }}{% for i in range(10**9) %}{% endfor %}",
    "a join of a billion": "{% set a = [1] * 10**9 %}{{ a | join(',') }}",
    "text without end": "{{ lipsum(n=10**7) }}",
    "an index without end": "{{ [messages] | batch(10**9, fill_with='x') | list }}",
    "compiling without end": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "a private name": "{% set ns = namespace(_x=1) %}{{ ns._x }}",
    "the endless string of a macro": ("{% macro f(a) %}{{ f(a + a) }}{% endmacro %}{{ f('a' * 1000000) }}"),
    "python's modules": "{{ cycler.__init__.__globals__.os }}",
    "changing what is given": "{% set _ = messages.append(1) %}",
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
def test_a_hostile_template_is_stopped_and_the_next_one_renders(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ChatTemplate("{{ 1 }}", {}).render([]) == "1"
    with monkeypatch.context() as patch:
        patch.setattr(text_process, "DEADLINE_S", DEADLINE_S)
        with pytest.raises(TemplateError):
            ChatTemplate(HOSTILE[name], {}).render(MESSAGES)
    year = str(datetime.datetime.now().year)
    assert ChatTemplate("{{ strftime_now('%Y') }}", {}).render([]) == year


def test_an_endless_template_is_stopped_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_process, "DEADLINE_S", 0.2)
    with pytest.raises(TemplateError, match=r"did not end within 0\.2 s"):
        ChatTemplate(HOSTILE["endless"], {}).render(MESSAGES)


def test_a_template_sees_only_what_it_is_given() -> None:
    text = ChatTemplate("{{ bos_token }}{{ messages | length }}{{ more }}", TOKENS).render(MESSAGES, more="x")
    assert text == "<s>4x"


def test_a_template_of_megabytes_is_not_read() -> None:
    with pytest.raises(TemplateError, match="has 2,000,000 characters; the limit is 1,048,576"):
        ChatTemplate("x" * 2_000_000, {})


@pytest.mark.parametrize(
    "content", [object(), b"bytes", {1, 2}, 10**5000], ids=["object", "bytes", "set", "long number"]
)
def test_messages_that_are_no_json_are_refused(content: Any) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be written as JSON"):
        ChatTemplate("", {}).render([{"role": "user", "content": content}])


def test_messages_nested_without_end_are_refused() -> None:
    content: list[Any] = []
    content.append(content)
    with pytest.raises(InvalidRequestError, match="cannot be written as JSON"):
        ChatTemplate("", {}).render([{"content": content}])
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequestError, match="cannot be written as JSON"):
        ChatTemplate("", {}).render([{"content": deep}])


def test_a_message_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="a message must be a mapping with a role, got str"):
        ChatTemplate("", {}).render(["hello"])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("part", "kind"),
    [({"type": "input_audio"}, "input_audio"), ({"image": "cat.png"}, "image"), ({"image_url": {}}, "image_url")],
)
def test_a_part_of_a_message_that_is_no_text_is_refused_by_its_type(part: dict[str, object], kind: str) -> None:
    content = [{"type": "text", "text": "What is this?"}, part]
    with pytest.raises(InvalidRequestError, match=f"a part of type '{kind}', and models read only text here"):
        ChatTemplate(TEMPLATES["tags a turn"], TOKENS).render([{"role": "user", "content": content}])


def test_messages_of_too_many_megabytes_are_refused_with_the_numbers() -> None:
    with pytest.raises(InvalidRequestError, match=r"has 17,\d{3},\d{3} bytes as JSON; the limit is 16,777,216"):
        ChatTemplate("", {}).render([{"content": "x" * 17_000_000}])


def test_keys_without_a_value_are_left_out_of_a_message() -> None:
    template = ChatTemplate("{% for m in messages %}{{ m.keys() | list }}{% endfor %}", {})
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": None}]}
    assert template.render([message]) == "['role', 'tool_calls']"
    assert message["content"] is None


def test_thinking_has_all_names_that_templates_know() -> None:
    template = ChatTemplate("{{ messages[0].thinking }} {{ messages[0].reasoning_content }}", {})
    for name in ("reasoning_content", "thinking", "reasoning"):
        assert template.render([{"role": "assistant", name: "hm"}]) == "hm hm"


def test_variables_come_before_special_tokens() -> None:
    assert ChatTemplate("{{ bos_token }}", TOKENS).render([], bos_token="<other>") == "<other>"


@pytest.mark.parametrize(
    "source",
    [
        "{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}",
        "{{ {'b': 1, 'a': 'ü<'} | tojson(sort_keys=true, ensure_ascii=true, separators=(',', ':')) }}",
        "{{ dict(a=1) | tojson }}{{ dict.fromkeys(['a', 'b'], 2) }}",
        "{% set ns = namespace({'a': 1}, b=2) %}{% set ns.c = 3 %}{{ ns.a }}{{ ns.b }}{{ ns.c }}",
        "{{ undefined_name }}|{{ messages[99] }}|{{ tools is none }}|{{ documents is none }}|{{ x is defined }}",
        "  {% if true %}\n    x\n  {% endif %}\n\n{# note #}\n{%- raw %}{{ y }}{% endraw %}\n",
        "{{ messages[0].content | upper | replace('B', '<') | e }}{{ 1.50 }}{{ 10 // 3 }}{{ '%s' % 3 }}",
    ],
)
def test_corners_of_the_language_are_those_of_transformers(source: str) -> None:
    wanted = render_jinja_template(conversations=[MESSAGES], chat_template=source)[0][0]
    assert ChatTemplate(source, {}).render(MESSAGES, add_generation_prompt=False) == wanted


def test_the_next_conversation_finds_nothing_of_the_one_before() -> None:
    template = ChatTemplate(
        "{% set ns = namespace(n=0) %}{{ ns.n }}{% set ns.n = 1 %}{{ cycler is defined }}{{ left is defined }}"
        "{% set left = 1 %}",
        {},
    )
    assert template.render([]) == template.render([]) == "0TrueFalse"


def test_one_process_serves_many_templates() -> None:
    assert ChatTemplate("0", {}).render([]) == "0"
    process = text_process.SHARED._process
    for n in range(1, 30):
        assert ChatTemplate(str(n), {}).render([]) == str(n)
    assert text_process.SHARED._process is process


def test_threads_get_their_own_answers() -> None:
    answers: dict[int, set[str]] = {}

    def work(n: int) -> None:
        answers[n] = {ChatTemplate("{{ messages[0].n }}", {}).render([{"n": n}]) for _ in range(30)}

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: {str(n)} for n in range(4)}


def test_an_interrupted_rendering_leaves_no_answer_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    template = ChatTemplate("{{ messages | length }}", {})
    assert template.render([]) == "0"
    with monkeypatch.context() as patch:
        patch.setattr(text_process, "_converse", interrupted)
        with pytest.raises(KeyboardInterrupt):
            template.render([{}])
    assert text_process.SHARED._process is None
    assert template.render([{}, {}]) == "2"


def test_memory_is_watched_where_the_system_holds_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    process = text_process.TextProcess()
    monkeypatch.setattr(text_process, "WATCHED_SHARE", 100 / 512)
    source = "{% set a = 'a' * (200 * 2**20) %}" + HOSTILE["endless"]
    with pytest.raises(TemplateError, match="and was stopped"):
        ChatTemplate(source, {}, process).render([])
    assert ChatTemplate("next", {}, process).render([]) == "next"
    process.stop()


def test_a_process_that_was_killed_is_replaced() -> None:
    template = ChatTemplate("here", {})
    assert template.render([]) == "here"
    process = text_process.SHARED._process
    assert process is not None
    process.kill()
    process.wait()
    assert template.render([]) == "here"


def test_a_process_that_does_not_start_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    text_process.SHARED.stop()
    for target, name, value in ((sys, "executable", "/nowhere/python"), (text_process, "package_directories", list)):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            with pytest.raises(TemplateError, match="did not start"):
                ChatTemplate("", {}).render([])
    assert ChatTemplate("here", {}).render([]) == "here"


def test_modules_in_the_working_directory_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "jinja2", "resource", "mlx_moe"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')")
    text_process.SHARED.stop()
    monkeypatch.chdir(tmp_path)
    assert ChatTemplate("here", {}).render([]) == "here"


def test_the_process_has_no_environment_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    text_process.SHARED.stop()
    monkeypatch.setenv("HF_TOKEN", "secret")
    ChatTemplate("", {}).render([])
    process = text_process.SHARED._process
    assert process is not None
    environment = Path(f"/proc/{process.pid}/environ")
    if environment.exists():  # Linux
        assert b"secret" not in environment.read_bytes()
        assert b"PYTHONPATH" in environment.read_bytes()


def test_the_process_ends_when_nobody_asks_any_more() -> None:
    command = [sys.executable, "-P", "-m", "mlx_moe.text.limited_process", str(512 << 20)]
    environment = {"PYTHONPATH": os.pathsep.join(text_process.package_directories())}
    question = json.dumps({"source": "{{ a }}", "variables": {"a": 3}, "max_bytes": 99, "cpu_s": 3}) + "\n"
    ended = subprocess.run(command, input=question, env=environment, capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in ended.stdout.splitlines()] == [{}, {"text": "3"}]


def test_the_process_ends_with_its_parent() -> None:
    script = "from mlx_moe.text import text_process as t\nassert t.SHARED.render('x', {}) == 'x'\nprint(t.SHARED.pid)"
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ended = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(ended.stdout), 0)
    assert ended.stderr == ""

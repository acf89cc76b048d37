"""The child process that renders chat templates: python -m mlx_moe.template_process.

A template comes with the checkpoint and is not trusted. jinja2's sandbox keeps it from Python's objects, but stops
neither an endless loop nor a gigabyte of text; so it runs here, under limits that the operating system holds.
Reads one JSON object a line from stdin and answers with one a line on stdout; ends when stdin closes.
"""

from __future__ import annotations

import datetime
import json
import resource
import sys
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 512 << 20
CPU_S = 600
"""Over the life of the process; the parent bounds each rendering by the clock."""


class _GenerationTag(jinja2.ext.Extension):
    """Accepts `{% generation %}`, which marks the assistant's part for training, and renders what is in it."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's interface

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _tojson(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def environment() -> ImmutableSandboxedEnvironment:
    """Return the environment that transformers' `apply_chat_template` renders in."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise_exception
    env.globals["strftime_now"] = _strftime_now
    return env


def _limit() -> None:
    for kind, limit in ((resource.RLIMIT_CPU, CPU_S), (resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(kind, (limit, limit))
        except (OSError, ValueError):
            continue  # macOS refuses RLIMIT_AS; the parent's deadline still holds


def main() -> None:
    """Render until stdin closes."""
    _limit()
    env = environment()
    templates: dict[str, jinja2.Template] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            source = asked["source"]
            if source not in templates:
                templates[source] = env.from_string(source)
            answer = {"text": templates[source].render(**asked["variables"])}
        except Exception as exc:  # the process boundary: whatever a template does is an answer
            answer = {"error": f"{type(exc).__name__}: {exc}"[:500]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

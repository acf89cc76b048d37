"""The child process that renders chat templates: python -m mlx_moe.text.template_process.

A template comes with the checkpoint and is not trusted. jinja2's sandbox keeps it from Python's objects, but
stops neither an endless loop nor a gigabyte of text; so it runs here, under limits that the operating system
holds. Reads one JSON object a line from stdin and answers with one a line on stdout; ends when stdin closes.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import resource
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY_BYTES = 512 << 20
CPU_S = 3
"""For one rendering, should there be no parent any more to stop it."""

KEPT_TEMPLATES = 8
MAX_ERROR_CHARACTERS = 500


class _RefusedError(jinja2.TemplateError):
    """What a template says itself, by `raise_exception`."""


class _GenerationTag(jinja2.ext.Extension):
    """Accepts `{% generation %}`, which marks the assistant's part for training, and renders what is in it.

    The body is a scope of its own, as of a call block: what it sets is not seen after it.
    """

    tags = {"generation"}  # noqa: RUF012 - jinja2's interface

    def parse(self, parser: Any) -> Any:
        """Turn the tag and its body into a call block."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    def _render(self, caller: Callable[[], str]) -> str:
        return caller()


class _Namespace(jinja2.utils.Namespace):
    """jinja2's `namespace` without names that could mean Python's own attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # so that `self` may be one of the names
        self, *rest = args
        values = dict(*rest, **kwargs)
        _check_names(values)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_names((name,))
        super().__setitem__(name, value)


class _Dict:
    """`dict` in a template: makes dictionaries, and is no class whose attributes lead anywhere."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """Return a dictionary in which every key has the same value."""
        return dict.fromkeys(keys, value)


def environment() -> ImmutableSandboxedEnvironment:
    """Return an environment that renders as transformers' `apply_chat_template` does."""
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise_exception
    env.globals["strftime_now"] = _strftime_now
    env.globals["namespace"] = _Namespace
    env.globals["dict"] = _Dict()
    return env


class Renderer:
    """Renders, and keeps the last few templates compiled."""

    def __init__(self) -> None:
        self._environment = environment()
        self._templates: dict[str, jinja2.Template] = {}

    def answer(self, asked: Mapping[str, Any]) -> bytes:
        """Return the line that answers a question: `text`, or `error` with its `kind`."""
        try:
            text = self._template(asked["source"]).render(**asked["variables"])
            line = json.dumps({"text": text}).encode()
            if len(line) < asked["max_bytes"]:
                return line + b"\n"
            answer = {"kind": "failed", "error": f"it wrote {len(text)} characters, more than is taken"}
        except _RefusedError as exc:
            answer = {"kind": "refused", "error": str(exc)[:MAX_ERROR_CHARACTERS]}
        except MemoryError:
            answer = {"kind": "memory", "error": f"it needs more than {MEMORY_BYTES >> 20} MiB of memory"}
        except Exception as exc:  # the process boundary: whatever a template does is an answer
            answer = {"kind": "failed", "error": f"{type(exc).__name__}: {exc}"[:MAX_ERROR_CHARACTERS]}
        return json.dumps(answer).encode() + b"\n"

    def _template(self, source: str) -> jinja2.Template:
        template = self._templates.pop(source, None) or self._environment.from_string(source)
        self._templates[source] = template
        if len(self._templates) > KEPT_TEMPLATES:
            del self._templates[next(iter(self._templates))]
        return template


def main() -> None:
    """Render until stdin closes."""
    _limit_process()
    renderer = Renderer()
    for line in sys.stdin.buffer:
        _limit_rendering()
        sys.stdout.buffer.write(renderer.answer(json.loads(line)))
        sys.stdout.buffer.flush()


def _limit_process() -> None:
    """Bound memory; forbid files and processes, which rendering needs none of."""
    limits = {"AS": MEMORY_BYTES, "DATA": MEMORY_BYTES, "CORE": 0, "FSIZE": 0, "NPROC": 0}
    for name, limit in limits.items():
        # macOS refuses or ignores some: there the parent looks at the memory
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))


def _limit_rendering() -> None:
    """Let the process live for another few seconds of computing."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, highest = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + 1 + CPU_S, highest))


def _raise_exception(message: Any) -> None:
    raise _RefusedError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return JSON that is not escaped for HTML, as jinja2's own filter would."""
    options: dict[str, Any] = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _check_names(names: Iterable[Any]) -> None:
    for name in names:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace may not have the name {name!r}")


if __name__ == "__main__":
    main()

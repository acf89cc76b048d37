"""The child process that renders chat templates: python -m mlx_moe.text.template_process.

A template comes with the checkpoint and is not trusted. jinja2's sandbox denies it access to Python's objects, but
stops neither an endless loop nor a gigabyte of output; so it runs here, within limits that the operating system
enforces. Reads one JSON object per line from stdin, writes one answer per line to stdout, ends when stdin closes.
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
"""For one rendering, in case no parent is left that would stop it."""

KEPT_TEMPLATES = 8
MAX_ERROR_CHARACTERS = 500


class _RefusedError(jinja2.TemplateError):
    """A template called `raise_exception`; carries its message."""


class _GenerationTag(jinja2.ext.Extension):
    """Accepts `{% generation %}`, which marks the assistant's text for training, and renders its body.

    The body is a scope of its own, like a call block: variables set in it are not visible after it.
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
    """jinja2's `namespace`, which refuses names that begin with an underscore, such as Python's own attributes."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # without `self`, which a template may use as a name
        self, *rest = args
        values = dict(*rest, **kwargs)
        _check_names(values)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_names((name,))
        super().__setitem__(name, value)


class _Dict:
    """`dict` in a template: makes dictionaries, without giving access to the class and its attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Iterable[Any], value: Any = None) -> dict[Any, Any]:
        """Return a dictionary that maps every key to the same value."""
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
    """Renders templates, and caches the last few compiled ones."""

    def __init__(self) -> None:
        self._environment = environment()
        self._templates: dict[str, jinja2.Template] = {}

    def answer(self, asked: Mapping[str, Any]) -> bytes:
        """Return the JSON line that answers a request: `text`, or `error` and its `kind`."""
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
        except Exception as exc:  # the process boundary: any failure of a template is an answer
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
    """Limit memory; forbid writing files and starting processes, which rendering does not need."""
    limits = {"AS": MEMORY_BYTES, "DATA": MEMORY_BYTES, "CORE": 0, "FSIZE": 0, "NPROC": 0}
    for name, limit in limits.items():
        # macOS refuses or ignores some limits: there the parent watches the memory
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))


def _limit_rendering() -> None:
    """Allow the process another CPU_S seconds of CPU time."""
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
    """Return JSON without the HTML escapes of jinja2's own filter."""
    options: dict[str, Any] = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


def _check_names(names: Iterable[Any]) -> None:
    for name in names:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"a namespace may not have the name {name!r}")


if __name__ == "__main__":
    main()

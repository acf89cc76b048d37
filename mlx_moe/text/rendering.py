"""Rendering: chat templates, as transformers' `apply_chat_template` renders them, in jinja2's sandbox.

A template comes with the checkpoint and is not trusted. The sandbox denies it access to Python's objects, but stops
neither an endless loop nor a gigabyte of output: it runs in the process of `limited_process`.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

KEPT_TEMPLATES = 8


class RefusedError(jinja2.TemplateError):
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

    def text(self, source: str, variables: Mapping[str, Any]) -> str:
        """Return what a template writes. Raises whatever it raises."""
        return self._template(source).render(**variables)

    def _template(self, source: str) -> jinja2.Template:
        template = self._templates.pop(source, None) or self._environment.from_string(source)
        self._templates[source] = template
        if len(self._templates) > KEPT_TEMPLATES:
            del self._templates[next(iter(self._templates))]
        return template


def _raise_exception(message: Any) -> None:
    raise RefusedError(message)


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
